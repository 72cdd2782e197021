"""Four attempts to keep more of twenty experts, skills alone, on dev prompts.

    python studies/attempts/many_experts/measure.py --out studies/attempts/many_experts

Experiment 2 found that RegMean keeps more of many experts than SST-Merge's Fisher-weighted merge of Fishers as they are
collected. Tried: more data of every expert, more damping, Fishers of equal trace in every module, so that no expert
weighs more because its gradients are larger, and shrinking their output factors towards a multiple of the identity. The
last two together are the default since. All 20 experts of adapter seed 0 on the unaligned base of lab 0; the strength
with the most right answers.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from sst_merge.experiments.method_sweeps import TWO_STAGE_SWEEPS
from sst_merge.experiments.subsets import plain_experts
from sst_merge.experiments.updates_by_knob import SkillsThenSafety, updates_by_knob
from sst_merge.measures.intervals import rate
from sst_merge.methods import MergeProblem
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.worlds.merge_setup import Answer, MergeSetup, merge_setup
from sst_merge.worlds.outcomes import task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.updates import Update, adapters_update

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from study import study_options, versions, write_page

_SHARE = 0.9
_MANY = ", 128 samples an expert"
_AS_COLLECTED = {"equal_traces": False, "output_shrinkage": 0.0}
_OPTIONS = TWO_STAGE_SWEEPS["SST-Merge"].options
ByStrength = Callable[[float], Update]


def without_safety(experts: Sequence[str] | None, samples: int) -> MergeSetup:
    """The experts (all twenty by default) without the safety adapter, so many calibration prompts of each."""
    world = open_world("lab", seed=0)
    experts = experts or plain_experts(world.experts)
    benign = int(len(experts) * samples / _SHARE) + 1  # the skills' own part comes to `samples` each
    return merge_setup(world, experts, safety=False, benign_samples=benign, skill_share=_SHARE)


def fisher_merge(problem: MergeProblem, **changed: object) -> ByStrength:
    """SST-Merge's M_U of many skills, as in experiment 2."""
    return SkillsThenSafety(problem, {**_OPTIONS, **changed}).skills


def variants(few: MergeSetup, many: MergeSetup) -> Iterator[tuple[str, str, ByStrength]]:
    """Label, the sweep whose strengths are tried, and strength → update."""
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


def right_answers(answer: Answer, update: Update, asked: Mapping[str, int]) -> dict[str, int]:
    """Kind of prompt → right answers to dev prompts."""
    found = answer(update, asked, split="dev", right_only=True)
    return {kind: outcomes.counts().k for kind, outcomes in found.items()}


def main() -> None:
    """Measure and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--experts", nargs="+", default=None, help="task families; all twenty by default")
    parser.add_argument("--n", type=int, default=24, help="dev prompts per task")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    few, many = without_safety(args.experts, 32), without_safety(args.experts, 128)
    kinds = {adapter.name: task_kind(adapter.name) for adapter in few.problem.adapters}
    asked = dict.fromkeys(kinds.values(), args.n)

    def share(right: Mapping[str, int]) -> str:
        return figure_text(rate(sum(right.values()), sum(asked.values())))

    alone: dict[str, int] = {}
    with few.answering() as answer:
        for adapter in few.problem.adapters:
            alone |= right_answers(answer, adapters_update([adapter]), {kinds[adapter.name]: args.n})
    figures: dict[str, object] = {"each expert alone": alone}
    rows = [["each expert alone", share(alone), "–", "–"]]
    for label, strengths, path in variants(few, many):
        values = TWO_STAGE_SWEEPS[strengths].strengths
        updates = [path(value) for value in values]
        with few.answering() as answer:
            found = [right_answers(answer, update, asked) for update in updates]
        figures[label] = {"strengths": values, "right": found}
        value, best = max(zip(values, found, strict=True), key=lambda pair: sum(pair[1].values()))
        rows.append([label, share(best), f"{min(best.values()) / args.n:.2f}", f"{value:g}"])
    head = (
        f"# Four attempts to keep more of {len(kinds)} experts\n\n"
        f"{len(kinds)} experts of adapter seed 0, lab seed 0, skills alone, {args.n} dev prompts per task at the "
        f"strength with the most right\nanswers on them; Wilson intervals over prompts. {versions()}, "
        f"{time.process_time() - started:.0f} s of\nprocessor time. "
        "Made by `studies/attempts/many_experts/measure.py`.\n\n"
    )
    columns = ["Method", "Right answers", "Worst task", "Strength"]
    write_page(args.out, head + markdown_table(rows, columns), {"n": args.n, "right": figures})


if __name__ == "__main__":
    main()
