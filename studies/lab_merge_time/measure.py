"""Time of an SST-Merge once its Fishers are there, against DARE and Task Arithmetic of the same two adapters.

    python studies/lab_merge_time/measure.py > studies/lab_merge_time/README.md

What is timed of SST-Merge is all that follows the Fishers: the core spaces, the eigenvectors, the filter and the merged
factors. The methods run interleaved in one process, in random order; ratios are taken inside a round.
"""

import argparse
import platform
import random
from collections.abc import Callable
from dataclasses import replace

import torch
from fisher import interval, timed

from sst_merge import __version__
from sst_merge.experiments.method_sweeps import METHOD_SWEEPS
from sst_merge.experiments.updates_by_knob import sst_problem, sst_updates_by_knob, swept_updates
from sst_merge.fim_calculator import build_spaces
from sst_merge.methods import MergeProblem
from sst_merge.reporting import markdown_table
from sst_merge.worlds.lab import load_lab
from sst_merge.worlds.lab.problem import lab_setup

_MU = 0.2


def without_fishers(problem: MergeProblem, options: dict[str, object]) -> Callable[[], object]:
    """A merge whose Fishers are taken from another one that has collected them before."""
    collected = sst_problem(problem, options, "mu", _MU).fishers

    def merged() -> object:
        again = replace(problem, spaces=build_spaces(problem.adapters, dtype=torch.float32))
        merge = sst_problem(again, options, "mu", _MU)
        merge.__dict__["fishers"] = collected  # where the cached property keeps them
        return sst_updates_by_knob(merge, "mu", _MU)(_MU)

    return merged


def main() -> None:
    """Time all methods and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skill", default="swap_pairs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = lab_setup(load_lab(0, progress=False), [options.skill]).problem
    tasks: dict[str, Callable[[], object]] = {
        label: lambda label=label: swept_updates(problem, METHOD_SWEEPS[label])(METHOD_SWEEPS[label].middle)
        for label in ("DARE linear", "Task Arithmetic")
    }
    for structure in ("kronecker", "block", "diagonal"):
        chosen = {"fisher": {"structure": structure}}
        tasks[f"SST-Merge without its Fishers, {structure}"] = without_fishers(problem, chosen)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    shuffler = random.Random(0)
    for _ in range(options.rounds):
        for name in shuffler.sample(list(tasks), len(tasks)):
            seconds[name].append(timed(tasks[name], "cpu"))
    rows = []
    for name, runs in seconds.items():
        ratio, low, high = interval([a / b for a, b in zip(runs, seconds["DARE linear"], strict=True)])
        rows.append([name, f"{sorted(runs)[len(runs) // 2]:.3f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"])
    print("# Merge time without the Fishers\n")
    print(
        f"{options.skill} and the safety adapter of lab seed 0, adapter seed 0; processor seconds of one thread, "
        f"median of {options.rounds}\ninterleaved rounds, ratios with the 95 % interval of the median. "
        f"sst-merge {__version__}, torch {torch.__version__},\n{platform.machine()}. "
        "Made by `studies/lab_merge_time/measure.py`.\n"
    )
    print(markdown_table(rows, ["Method", "Seconds", "× DARE linear"]))


if __name__ == "__main__":
    main()
