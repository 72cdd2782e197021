"""Four attempts to keep more of twenty experts, skills alone, on dev prompts.

    python studies/attempts/many_experts/measure.py > studies/attempts/many_experts/README.md

Experiment 2 found that RegMean keeps more of many experts than SST-Merge's Fisher-weighted merge of Fishers as they are
collected. Tried: more data of every expert, more damping, Fishers of equal trace in every module, so that no expert
weighs more because its gradients are larger, and shrinking their output factors towards a multiple of the identity. The
last two together are the default since. All 20 experts of adapter seed 0 on the unaligned base of lab 0; the strength
with the most right answers.
"""

import platform
import time
from collections.abc import Callable, Iterator

import torch

from sst_merge import __version__
from sst_merge.experiments.method_sweeps import TWO_STAGE_SWEEPS
from sst_merge.experiments.updates_by_knob import SkillsThenSafety, updates_by_knob
from sst_merge.measures.intervals import wilson_interval
from sst_merge.methods import MergeProblem
from sst_merge.reporting import markdown_table
from sst_merge.worlds.lab import load_lab
from sst_merge.worlds.lab.problem import LabSetup, lab_setup
from sst_merge.worlds.updates import Update, adapters_update

_N = 24
_SHARE = 0.9
_MANY = ", 128 samples an expert"
_AS_COLLECTED = {"equal_traces": False, "output_shrinkage": 0.0}
_OPTIONS = TWO_STAGE_SWEEPS["SST-Merge"].options
Path = Callable[[float], Update]


def twenty_experts(samples: int) -> LabSetup:
    """The twenty experts without the safety adapter, so many calibration prompts of each."""
    lab = load_lab(0, progress=False)
    benign = int(len(lab.families) * samples / _SHARE) + 1  # the skills' own part comes to `samples` each
    return lab_setup(lab, lab.families, safety=False, benign_samples=benign, skill_share=_SHARE)


def fisher_merge(problem: MergeProblem, **options: object) -> Path:
    """SST-Merge's M_U of many skills, as in experiment 2."""
    return SkillsThenSafety(problem, {**_OPTIONS, **options}).skills


def variants(few: LabSetup, many: LabSetup) -> Iterator[tuple[str, str, Path]]:
    """Label, the staged whose strengths are tried, and the path."""
    for label, given, said in (("Task Arithmetic", few, ""), ("RegMean", few, ""), ("RegMean", many, _MANY)):
        staged = TWO_STAGE_SWEEPS[label]
        path = updates_by_knob(given.problem, staged.method, staged.options, "strength", prepare_once=True)
        yield label + said, label, path
    yield "SST-Merge, as collected", "SST-Merge", fisher_merge(few.problem, **_AS_COLLECTED)
    yield "SST-Merge, as collected" + _MANY, "SST-Merge", fisher_merge(many.problem, **_AS_COLLECTED)
    yield "SST-Merge, as collected, damping 1", "SST-Merge", fisher_merge(few.problem, damping=1.0, **_AS_COLLECTED)
    yield "SST-Merge", "SST-Merge", fisher_merge(few.problem)
    for share in (0.0, 0.4, 1.0):
        yield f"SST-Merge, shrinkage {share:g}", "SST-Merge", fisher_merge(few.problem, output_shrinkage=share)
    yield "SST-Merge" + _MANY, "SST-Merge", fisher_merge(many.problem)


def main() -> None:
    """Measure and print the page."""
    torch.set_num_threads(1)
    started = time.process_time()
    few, many = twenty_experts(32), twenty_experts(128)
    asked = {f"task:{skill}": _N for skill in few.skills}
    rows = []
    with few.answering() as answer:
        alone = 0
        for adapter in few.problem.adapters:
            kind = {f"task:{adapter.name}": _N}
            right = answer(adapters_update([adapter]), kind, split="tuning", with_other_answer=False).right
            alone += sum(map(sum, right.values()))
    rows.append(["each expert alone", *_rate(alone, len(asked)), "–", "–"])
    for label, strengths, path in variants(few, many):
        values = TWO_STAGE_SWEEPS[strengths].strengths
        updates = [path(value) for value in values]
        with few.answering() as answer:
            found = [answer(update, asked, split="tuning", with_other_answer=False).right for update in updates]
        totals = [sum(map(sum, right.values())) for right in found]
        best = totals.index(max(totals))
        worst = min(sum(scores) / _N for scores in found[best].values())
        rows.append([label, *_rate(totals[best], len(asked)), f"{worst:.2f}", f"{values[best]:g}"])
    print("# Four attempts to keep more of twenty experts\n")
    print(
        f"All 20 experts of adapter seed 0, lab seed 0, skills alone, {_N} dev prompts per task at the strength with "
        "the most right\nanswers on them; Wilson intervals over prompts. "
        f"sst-merge {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{time.process_time() - started:.0f} s of\nprocessor time. "
        "Made by `studies/attempts/many_experts/measure.py`.\n"
    )
    print(markdown_table(rows, ["Method", "Right answers", "Worst task", "Strength"]))


def _rate(right: int, tasks: int) -> list[str]:
    low, high = wilson_interval(right, tasks * _N)
    return [f"{right / (tasks * _N):.3f} [{low:.3f}, {high:.3f}]"]


if __name__ == "__main__":
    main()
