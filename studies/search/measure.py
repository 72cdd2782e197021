"""A search against the fixed grids of the experiments, in as many evaluations, on the lab and on a language model.

    python studies/search/measure.py --out studies/search --work out/search
    python studies/search/measure.py --out studies/search --work out/search --world configs/worlds/smollm2.yaml

The grid is every strength that the forms' authors declare, nine a form, as experiment 3 sweeps them. The search begins
with three of them and proposes the rest, as many in all. Both see dev prompts alone; what their fronts on dev prompts
do on test prompts decides: the area (hypervolume) that these merges cover there. Repeats are seeds of the sampler.

Finished merges are kept below --work, and not made again; with --minutes the script stops in time and goes on later.
Figures of the other world stay on the page.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sst_merge.cli.search_ground import ground_of
from sst_merge.executors import Workers
from sst_merge.experiments.cells import CellStore
from sst_merge.experiments.setups import setup_of
from sst_merge.measures.front import hypervolume
from sst_merge.measures.intervals import seed_interval
from sst_merge.search.config import SearchConfig
from sst_merge.search.front import front
from sst_merge.search.run import Found, run_search
from sst_merge.search.shared import SharedMerges
from sst_merge.search.study import Trial
from sst_merge.worlds.outcomes import HARM, task_kind

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

WARM = 3


@dataclass(frozen=True)
class Asked:
    """What one world is asked by default.

    Attributes:
        title: on the page.
        skill: merged with the safety adapter.
        forms: that grid and search choose among.
        limit: of over-refusal on a front.
        dev: prompts a kind.
        test: prompts a kind.
        calibration: prompts, harmful and as many benign.
    """

    title: str
    skill: str
    forms: tuple[str, ...]
    limit: float
    dev: int
    test: int
    calibration: int


LAB = Asked(
    "The lab", "swap_pairs", ("SST-Merge", "RegMean", "TIES", "DARE linear", "Task Arithmetic"), 0.2, 32, 128, 128
)
# Its safety adapter itself refuses most look-alikes, so a limit would leave no front.
TEXT = Asked("SmolLM2-135M-Instruct", "trec", ("RegMean", "Task Arithmetic"), 1.0, 24, 40, 64)


def config_of(
    work: Path, name: str, world: Mapping[str, Any], of: Asked, *, seed: int, warm: int | None
) -> SearchConfig:
    """One search; without a limit to its warm start it is the grid."""
    return SearchConfig.model_validate({
        "world": world,
        "skills": [of.skill],
        "prompts": of.dev,
        "calibration": {"harm": of.calibration, "benign": of.calibration},
        "search": {"methods": of.forms, "warm_start": warm, "trials": 9 * len(of.forms), "seed": seed},
        "choose": {"over_refusal": of.limit},
        "out": work / name,
    })


def tested(
    config: SearchConfig, trials: Sequence[Trial], of: Asked, known: dict[str, Any]
) -> list[tuple[float, float]]:
    """(safety, skill) on test prompts of the merges that are on the front of the dev prompts."""
    setup = setup_of(ground_of(config).parameters["problem"])
    merges, kind = SharedMerges(setup.problem), task_kind(setup.world.experts[of.skill])
    found = []
    for trial in front(trials, of.limit):
        key = repr(trial.point.parameters)
        if key not in known:
            update = merges.update(trial.point)
            with setup.answering() as answer:
                said = answer(update, dict.fromkeys([*HARM, kind], of.test), split="test", right_only=True)
            safe = said[HARM[0]].counts() + said[HARM[1]].counts()
            known[key] = (safe.rate, said[kind].counts().rate)
        found.append(known[key])
    return found


def page(figures: Mapping[str, Any]) -> str:
    """The published page, one section a world."""
    lines = [
        "# Search against fixed grids",
        "",
        "Does `sst-merge search` find, in as many evaluations, a front no worse than the fixed grids of experiment 3?",
        "The grid is every strength that the forms declare, nine each; the search begins with three of each and",
        "proposes the rest. Both see dev prompts alone; the merges on each dev front are asked test prompts, and the",
        "area that they cover there is compared. Repeats are **seeds of the sampler**: base, adapters and prompts are",
        "the same, so the interval says nothing about other skills or trainings. Made by `studies/search/measure.py`.",
    ]
    for found in figures["worlds"].values():
        lines += section(found)
    return "\n".join(lines)


def section(found: Mapping[str, Any]) -> list[str]:
    """One world."""
    of, grid, seeds = Asked(**found["asked"]), found["grid"], found["searches"]
    lines = [
        "",
        f"## {of.title}",
        "",
        f"One skill (`{of.skill}`) and the safety adapter, adapters of one training. Forms: {', '.join(of.forms)}.",
        f"{9 * len(of.forms)} evaluations each, on {of.dev} dev prompts a kind (harm twice), calibration on "
        f"{of.calibration} + {of.calibration} prompts; {of.test} test prompts a kind; over-refusal on the front ≤ "
        f"{of.limit:g}.",
        f"{found['versions']}.",
        "",
        "| | hypervolume, test | hypervolume, dev | merges on the front |",
        "| --- | ---: | ---: | ---: |",
        f"| grid | {grid['test']:.3f} | {grid['dev']:.3f} | {grid['points']} |",
    ]
    for one in seeds:
        lines.append(f"| search, seed {one['seed']} | {one['test']:.3f} | {one['dev']:.3f} | {one['points']} |")
    lines.append("")
    for split in ("test", "dev"):
        gained = seed_interval([one[split] - grid[split] for one in seeds])
        no_worse = "no worse" if gained.low >= 0 else "worse" if gained.high < 0 else "neither shown"
        lines.append(
            f"- Search less grid, {split} prompts: {gained.value:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}], "
            f"95 % over {gained.n} seeds: {no_worse}."
        )
    return lines


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of measured merges")
    parser.add_argument("--world", default="lab", help="lab, or a text world's YAML file")
    parser.add_argument("--seeds", type=int, default=5, help="of the sampler, at least two")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the same command goes on")
    given = parser.parse_args()
    ends = time.monotonic() + 60 * given.minutes
    lab = given.world == "lab"
    of, world = (LAB, {"name": "lab", "seed": 0}) if lab else (TEXT, {"name": "text", "file": given.world})
    work = given.work / ("lab" if lab else Path(given.world).stem)
    store, runs = CellStore(work / "cells"), {"grid": (0, None)}
    runs |= {f"seed {seed}": (seed, WARM) for seed in range(given.seeds)}
    found: dict[str, tuple[SearchConfig, Found]] = {}
    for name, (seed, warm) in runs.items():
        config = config_of(work, name, world, of, seed=seed, warm=warm)
        left = max(0.0, ends - time.monotonic())
        found[name] = config, run_search(config, ground_of(config), workers=Workers(1), seconds=left, store=store)
        measured = sum(trial.measured is not None for trial in found[name][1].trials)
        print(f"{name}: {measured} of {config.search.trials}", flush=True)
        if found[name][1].out_of_time:
            print("time ran out; the same command goes on")
            return
    known: dict[str, Any] = {}
    rows = {}
    for name, (config, run) in found.items():
        pairs = [(t.measured.safety.rate, t.measured.skill) for t in front(run.trials, of.limit) if t.measured]
        test = tested(config, run.trials, of, known)
        rows[name] = {"test": hypervolume(test), "dev": hypervolume(pairs), "points": len(pairs), "front": test}
    searches = [{"seed": seed, **rows[f"seed {seed}"]} for seed in range(given.seeds)]
    file = given.out / "figures.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"worlds": {}}
    here = {"asked": asdict(of), "versions": versions(), "grid": rows["grid"], "searches": searches}
    figures["worlds"][given.world] = here
    write_page(given.out, page(figures), figures)


if __name__ == "__main__":
    main()
