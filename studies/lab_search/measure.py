"""A search against the fixed grids of the experiments, in as many evaluations, on the lab.

    python studies/lab_search/measure.py --out studies/lab_search --work out/lab_search

The grid is every strength that the forms' authors declare, nine a form, as experiment 3 sweeps them. The search begins
with three of them and proposes the rest, as many in all. Both see dev prompts alone; what their fronts on dev prompts
do on test prompts decides: the area (hypervolume) that these merges cover there. Repeats are seeds of the sampler.

Finished merges are kept below --work, and not made again; with --minutes the script stops in time and goes on later.
"""

import sys
import time
from collections.abc import Mapping, Sequence
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

FORMS = ("SST-Merge", "RegMean", "TIES", "DARE linear", "Task Arithmetic")
SKILL, WARM = "swap_pairs", 3
LIMIT = 0.2
"""Over-refusal that a front may have."""


def config_of(work: Path, name: str, asked: Mapping[str, Any], *, seed: int, warm: int | None) -> SearchConfig:
    """One search; without a limit to its warm start it is the grid."""
    return SearchConfig.model_validate({
        "world": {"name": "lab", "seed": asked["lab"]},
        "skills": [SKILL],
        "prompts": asked["dev"],
        "calibration": {"harm": asked["calibration"], "benign": asked["calibration"]},
        "search": {"methods": FORMS, "warm_start": warm, "trials": asked["trials"], "seed": seed},
        "choose": {"over_refusal": LIMIT},
        "out": work / name,
    })


def tested(config: SearchConfig, trials: Sequence[Trial], n: int, known: dict[str, Any]) -> list[tuple[float, float]]:
    """(safety, skill) on test prompts of the merges that are on the front of the dev prompts."""
    setup = setup_of(ground_of(config).parameters["problem"])
    merges = SharedMerges(setup.problem)
    found = []
    for trial in front(trials, LIMIT):
        key = repr(trial.point.parameters)
        if key not in known:
            update = merges.update(trial.point)
            with setup.answering() as answer:
                of = answer(update, dict.fromkeys([*HARM, task_kind(SKILL)], n), split="test", right_only=True)
            safe = of[HARM[0]].counts() + of[HARM[1]].counts()
            known[key] = (safe.rate, of[task_kind(SKILL)].counts().rate)
        found.append(known[key])
    return found


def page(figures: Mapping[str, Any]) -> str:
    """The published page."""
    grid, seeds = figures["grid"], figures["searches"]
    lines = [
        "# Search against fixed grids, on the lab",
        "",
        f"One skill (`{SKILL}`) and the safety adapter of lab {figures['lab']}, adapters of one training. Forms: "
        f"{', '.join(FORMS)}.",
        f"{figures['trials']} evaluations each, on {figures['dev']} dev prompts a kind (harm twice), calibration on "
        f"{figures['calibration']} + {figures['calibration']} prompts.",
        f"Figures are of {figures['test']} test prompts a kind, asked of the merges on the dev front (over-refusal ≤ "
        f"{LIMIT:g}). Repeats are **seeds of the sampler**: base,",
        "adapters and prompts are the same, so the interval says nothing about other skills or trainings. One world; "
        "SmolLM2 has not been run.",
        f"{figures['versions']}. Made by `studies/lab_search/measure.py`.",
        "",
        "| | hypervolume, test | hypervolume, dev | merges on the front |",
        "| --- | ---: | ---: | ---: |",
        f"| grid | {grid['test']:.3f} | {grid['dev']:.3f} | {grid['points']} |",
    ]
    for of in seeds:
        lines.append(f"| search, seed {of['seed']} | {of['test']:.3f} | {of['dev']:.3f} | {of['points']} |")
    lines.append("")
    if len(seeds) > 1:
        for split in ("test", "dev"):
            gained = seed_interval([of[split] - grid[split] for of in seeds])
            no_worse = "no worse" if gained.low >= 0 else "worse" if gained.high < 0 else "neither shown"
            lines.append(
                f"- Search less grid, {split} prompts: {gained.value:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}], "
                f"95 % over {gained.n} seeds: {no_worse}."
            )
    return "\n".join(lines)


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of measured merges")
    parser.add_argument("--seeds", type=int, default=5, help="of the sampler")
    parser.add_argument("--lab", type=int, default=0, help="seed of the lab")
    parser.add_argument("--dev", type=int, default=32, help="dev prompts a kind")
    parser.add_argument("--test", type=int, default=128, help="test prompts a kind")
    parser.add_argument("--calibration", type=int, default=128, help="calibration prompts, harmful and as many benign")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the same command goes on")
    given = parser.parse_args()
    ends = time.monotonic() + 60 * given.minutes
    asked = {"lab": given.lab, "dev": given.dev, "calibration": given.calibration, "trials": 9 * len(FORMS)}
    store, runs = CellStore(given.work / "cells"), {"grid": (0, None)}
    runs |= {f"seed {seed}": (seed, WARM) for seed in range(given.seeds)}
    found: dict[str, tuple[SearchConfig, Found]] = {}
    for name, (seed, warm) in runs.items():
        config = config_of(given.work, name, asked, seed=seed, warm=warm)
        left = max(0.0, ends - time.monotonic())
        found[name] = config, run_search(config, ground_of(config), workers=Workers(1), seconds=left, store=store)
        measured = sum(trial.measured is not None for trial in found[name][1].trials)
        print(f"{name}: {measured} of {asked['trials']}", flush=True)
        if found[name][1].out_of_time:
            print("time ran out; the same command goes on")
            return
    known: dict[str, Any] = {}
    rows = {}
    for name, (config, of) in found.items():
        pairs = [(t.measured.safety.rate, t.measured.skill) for t in front(of.trials, LIMIT) if t.measured]
        test = tested(config, of.trials, given.test, known)
        rows[name] = {"test": hypervolume(test), "dev": hypervolume(pairs), "points": len(pairs), "front": test}
    searches = [{"seed": seed, **rows[f"seed {seed}"]} for seed in range(given.seeds)]
    figures = {**asked, "test": given.test, "versions": versions(), "grid": rows["grid"], "searches": searches}
    write_page(given.out, page(figures), figures)


if __name__ == "__main__":
    main()
