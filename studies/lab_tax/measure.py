"""The safety tax on the lab: every method swept over its whole range, several seeds of adapters.

    python studies/lab_tax/measure.py --seeds 0 1 2 --skills swap_pairs --out studies/lab_tax
    python studies/lab_tax/measure.py --methods "Task Arithmetic" RegMean SST-Merge "SST-Merge, closed form" \
        "SST-Merge, core inputs" "Random subspace" "Calibration data alone" --n-dev 64 --n-test 128 --seeds 0 1 2 3 4 \
        --skills swap_pairs --joint --title "Safety tax on the lab: one skill" --out studies/lab_one_skill
    python studies/lab_tax/measure.py --methods "Task Arithmetic" RegMean RegMean++ SST-Merge \
        "SST-Merge, closed form" "SST-Merge, core inputs, Fisher utility" "Random subspace" "Calibration data alone" \
        --n-dev 64 --n-test 128 --seeds 0 1 2 3 4 --skills reverse sort_up add --joint \
        --title "Safety tax on the lab: three skills" --out studies/lab_three_skills

With --add only what figures.json lacks is measured: more seeds, or more methods.

For each seed a skill expert and a safety adapter are (re)trained on the fixed unaligned base (cached), and every method
is swept, measured and shown as experiment 1 does it: the strength is the smallest with safety ≥ 0.9 on dev prompts, and
test prompts are reported. Writes README.md (the tables), figures.json (outcomes of every prompt) and the pictures.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sst_merge.experiments.method_sweeps import METHOD_SWEEPS, PLAIN, chosen_sweeps
from sst_merge.experiments.plan import JOINT
from sst_merge.experiments.provenance import commit
from sst_merge.experiments.read_cells import GroupCells
from sst_merge.experiments.report import Report, report_markdown
from sst_merge.experiments.safety_tax_report import tax_tables
from sst_merge.experiments.single_models import measured_models
from sst_merge.experiments.sweep import measured_sweep
from sst_merge.experiments.updates_by_knob import swept_updates
from sst_merge.files import atomic_file
from sst_merge.measures.sweeps import seed_sweeps
from sst_merge.methods import MethodSweep
from sst_merge.worlds.asking import all_kinds
from sst_merge.worlds.merge_setup import merge_setup
from sst_merge.worlds.outcomes import HARM, task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.world import SAFETY, World, joint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

THRESHOLD = 0.9
_TAX = (PLAIN, "Task Arithmetic, interpolated", "Random subspace", "SST-Merge", "SST-Merge, core inputs, refined")


@dataclass
class Measured:
    """What is measured so far, in the page's own figures: written after every sweep, and gone on from with --add.

    Attributes:
        path: of figures.json.
        asked: skills and numbers of prompts, which must be the same.
        alone: seed → single models.
        results: label → seed → sweep.
        values: label → values of its knob.
        commits: of the code that measured them.
    """

    path: Path
    asked: Mapping[str, Any]
    alone: dict[int, Any] = field(default_factory=dict)
    results: dict[str, dict[int, Any]] = field(default_factory=dict)
    values: dict[str, Sequence[float]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Take what the file has.

        Raises:
            ValueError: other skills or numbers of prompts.
        """
        kept = json.loads(self.path.read_text(encoding="utf-8"))
        other = {name: kept[name] for name, value in self.asked.items() if kept[name] != value}
        if other:
            raise ValueError(f"{self.path}: measured with {other}, asked for {dict(self.asked)}; give another --out")
        self.alone = {int(seed): found for seed, found in kept["alone"].items()}
        self.results = {label: {int(s): of for s, of in by.items()} for label, by in kept["results"].items()}
        self.values, self.commits = kept["values"], kept.get("commits", [])

    def has(self, swept: MethodSweep, seed: int) -> bool:
        """Whether this sweep of a seed is there, with the values that the method declares today."""
        return list(swept.values) == self.values.get(swept.label) and seed in self.results[swept.label]

    def keep(self, swept: MethodSweep, seed: int, result: Any) -> None:
        """Add one sweep."""
        if list(swept.values) != self.values.get(swept.label):
            self.results[swept.label] = {}
        self.values[swept.label] = list(swept.values)
        self.results[swept.label][seed] = result
        self.write()

    def write(self) -> None:
        """Save everything."""
        self.commits = sorted({*self.commits, commit()})
        with atomic_file(self.path) as aside:
            aside.write_text(json.dumps(self.figures(), ensure_ascii=False) + "\n", encoding="utf-8")

    def figures(self) -> dict[str, Any]:
        """As they stand in the file."""
        own = {"values": self.values, "commits": self.commits, "alone": self.alone, "results": self.results}
        return {"seeds": sorted(self.alone), **self.asked, **own}

    def cells(self, sweeps: Sequence[MethodSweep], seeds: Sequence[int]) -> GroupCells:
        """Those of some sweeps and seeds."""
        results = {swept.label: {seed: self.results[swept.label][seed] for seed in seeds} for swept in sweeps}
        return GroupCells(results, {seed: self.alone[seed] for seed in seeds})


def measure(
    world: World, measured: Measured, sweeps: Sequence[MethodSweep], seeds: Sequence[int], *, together: bool
) -> None:
    """Single models and sweeps of every seed of adapters, as far as they are missing.

    Args:
        world: the lab.
        measured: what there is; taken into.
        sweeps: methods.
        seeds: of the adapters.
        together: also train one adapter on the data of all.
    """
    skills, n_dev, n_test = measured.asked["skills"], measured.asked["n_dev"], measured.asked["n_test"]
    experts = {f"expert {skill}": [skill] for skill in skills}
    models = {"base": [], "skills alone": list(skills), "safety alone": [SAFETY], **experts}
    models |= {JOINT: [joint([*skills, SAFETY])]} if together else {}
    for seed in seeds:
        missing = [swept for swept in sweeps if not measured.has(swept, seed)]
        if seed in measured.alone and not missing:
            continue
        setup = merge_setup(world, skills, adapter_seed=seed, seed=seed)
        asked = {"dev": dict.fromkeys(HARM, n_dev), "test": all_kinds(setup.tasks, n_test)}
        own = {name: [task_kind(skill)] for name, (skill,) in experts.items()}
        if seed not in measured.alone:
            measured.alone[seed] = measured_models(setup, models, **asked, own=own)
        for swept in missing:
            started = time.perf_counter()
            path = swept_updates(setup.problem, swept)
            measured.keep(swept, seed, measured_sweep(setup, path, swept.values, **asked))
            print(f"seed {seed}  {swept.label:32s} {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the adapters")
    parser.add_argument("--skills", nargs="+", default=["swap_pairs"])
    parser.add_argument("--methods", nargs="+", default=_TAX, help="labels or names of methods, or `every`")
    parser.add_argument("--n-dev", type=int, default=128, help="dev prompts per kind")
    parser.add_argument("--n-test", type=int, default=256, help="test prompts per kind")
    parser.add_argument("--joint", action="store_true", help="also train one adapter on the data of all")
    parser.add_argument(
        "--add",
        action="store_true",
        help="measure only what figures.json lacks; the page shows the methods and seeds named here",
    )
    parser.add_argument("--title", default="Safety tax on the lab", help="of the page")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sweeps = list(chosen_sweeps(() if args.methods == ["every"] else args.methods, METHOD_SWEEPS).values())
    asked = {"skills": args.skills, "n_test": args.n_test, "n_dev": args.n_dev}
    measured = Measured(args.out / "figures.json", asked)
    if args.add:
        measured.read()
    measure(open_world("lab", seed=0), measured, sweeps, args.seeds, together=args.joint)
    cells = measured.cells(sweeps, args.seeds)
    report = Report(args.title)
    report.notes.append(
        f"Lab seed 0, adapter seeds {args.seeds}; {args.n_test} test prompts per kind (safety: twice that), "
        f"{args.n_dev} dev prompts. {versions()}, measured at {', '.join(measured.commits)}. Made by "
        "`studies/lab_tax/measure.py`."
    )
    swept = seed_sweeps(cells.sweeps(), [THRESHOLD], seed=0)
    tax_tables(report, ", ".join(args.skills), cells, swept, args.out, seed=0)
    write_page(args.out, report_markdown(report), measured.figures())


if __name__ == "__main__":
    main()
