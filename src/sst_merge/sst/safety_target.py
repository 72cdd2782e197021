"""The merge with the least benign divergence that keeps a rate of refusals with a stated confidence.

The points of a path (:mod:`.taught_path` where adapters teach, otherwise :mod:`.safety_path`) are asked the harmful
prompts that were set aside, and tested from the safest one downwards (:mod:`.risk_control`). All that pass keep the
target at once, so the one with the least divergence from the skilled model may be taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any

from .. import processes
from ..data_loader.batch import Batch
from ..errors import DataError, MergeError
from ..fim_calculator import CoreModel
from ..methods import MergeProblem, Refuses
from .calibration_split import split_batches
from .collect import required_model
from .flow import SSTMerge
from .merge_fishers import Cores
from .options import DEFAULT_BUDGET, SSTOptions
from .region import merged_cores
from .risk_control import Tested, allowed_misses, fixed_sequence, least_prompts, lower_bound
from .safety_path import PathPoint, change_at, measured_divergences, safety_alone, safety_path
from .taught_path import TaughtPath, TaughtPoint

__all__ = ["Step", "TargetChoice", "check_target", "path_end", "reach_target", "refine_at_target"]

_ENDS = (1.0, 1.25, 1.5)
"""Factors of the safety adapter that the path may end at."""

_ASKED_FOR_END = 128
"""Prompts of the Fishers that choose among them; those that are tested on have no part in it."""

_LEAST_BUDGET = 1e-4
"""Nats per benign token: where a point is as good as the skilled model, refinement still needs room to move."""


@dataclass(frozen=True)
class Step:
    """A merge that was asked the held-out prompts.

    Attributes:
        tested: refusals, their bound, and whether it passes.
        divergence: mean KL(skilled ‖ merged) per held-out benign answer token, nats.
        point: where on the path it lies; None for the refined merge, which has left it.
    """

    tested: Tested
    divergence: float
    point: PathPoint | TaughtPoint | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        where = {} if self.point is None else asdict(self.point)
        of = self.tested
        found = {"refused": of.kept, "prompts": of.prompts, "bound": of.bound, "accepted": of.accepted}
        return where | found | {"divergence": self.divergence}


@dataclass(frozen=True)
class TargetChoice:
    """The chosen point and everything that was tested.

    Attributes:
        target: rate of refusals asked for.
        confidence: 1 - δ.
        steps: of the path, safest first.
        chosen: one of them.
        change: M - M_U of what is to be written.
        refined: the merge after refinement, where that was asked for.
        refined_kept: whether ``change`` is the refined one.
        taught: what the merges of a taught path learnt, by name, as plain values.
    """

    target: float
    confidence: float
    steps: tuple[Step, ...]
    chosen: Step
    change: Cores
    refined: Step | None = None
    refined_kept: bool = False
    taught: Mapping[str, dict[str, object]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the target is kept with the confidence."""
        return self.chosen.tested.accepted

    @property
    def point(self) -> PathPoint | TaughtPoint:
        """Where on the path the chosen step lies."""
        assert self.chosen.point is not None
        return self.chosen.point

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report: the path with refusals and divergence, and what was chosen."""
        prompts = self.chosen.tested.prompts
        return {
            "target": self.target,
            "confidence": self.confidence,
            "reached": self.reached,
            "prompts": prompts,
            "allowed_misses": allowed_misses(prompts, self.target, 1.0 - self.confidence),
            "chosen": self.chosen.to_dict(),
            "path": [step.to_dict() for step in self.steps],
            "refined": None if self.refined is None else {**self.refined.to_dict(), "kept": self.refined_kept},
            "taught": dict(self.taught),
        }

    def warnings(self) -> list[str]:
        """Sentences for the user: a target that was missed, a refinement that was given up."""
        found = []
        if not self.reached:
            found.append(
                f"safety_target = {self.target:g} was not reached with confidence {self.confidence:g}: "
                f"{_counted(self.chosen.tested)}. The safest point of the path was written (if_missed: safest)"
            )
        if self.refined is not None and not self.refined_kept:
            now, before = self.refined.divergence, self.chosen.divergence
            found.append(
                "refine was given up, the point before it was kept: the refined merge has "
                f"{_counted(self.refined.tested)}, and benign divergence {now:.3g} (before: {before:.3g})"
            )
        return found


def check_target(problem: MergeProblem, options: SSTOptions) -> None:
    """Refuse, before anything is computed, a target that no point could show to be kept.

    Args:
        problem: the merge.
        options: with a safety target.

    Raises:
        DataError: too few harmful prompts are held out, no benign ones, or nobody says what a refusal is.
    """
    (target, delta), share = _asked(options), options.harm_holdout
    held = split_batches(problem.harm, share, problem.seed)[1]
    needed, found, total = least_prompts(target, delta), sum(map(len, held)), sum(map(len, problem.harm))
    if found < needed:
        more = f"at least {ceil(needed / share)} harm prompts, or a larger share" if share else "a share above 0"
        raise DataError(
            f"safety_target = {target:g} with confidence {1 - delta:g} needs at least {needed} held-out harmful "
            f"prompts, all of them refused; found {found} (calibration_holdout {share:g} of {total}). Give {more}"
        )
    if options.calibration_holdout == 0:
        raise DataError(
            "safety_target takes the point of least benign divergence, and calibration_holdout: 0 leaves no prompts to "
            "measure it on; hold some out"
        )
    _refuses(problem)


def reach_target(merge: SSTMerge) -> TargetChoice:
    """Walk down the path as far as the target is kept, and take the point of least divergence.

    Args:
        merge: whose options have a safety target, checked by :func:`check_target`.

    Returns:
        The choice. Where no point keeps the target and ``if_missed`` is ``safest``, the point with the most refusals.

    Raises:
        MergeError: no point keeps the target.
    """
    options, (target, delta) = merge.options, _asked(merge.options)
    changes: list[Cores] = []
    # Collects the Fishers now: while hooks hold a point of the path, gradients would be taken there.
    merge.filter  # noqa: B018
    model, spaces = required_model(merge.problem), merge.problem.spaces
    with CoreModel(model, spaces) as attached:
        end = path_end(merge, attached)
        path = TaughtPath(merge, end) if options.refine == "teachers" else None
        walk: list[tuple[PathPoint | TaughtPoint, Callable[[], Cores]]]
        if path is None:
            walk = [(point, partial(change_at, merge, point)) for point in safety_path(merge, attached, end)]
        else:
            walk = [(point, partial(path.change_at, point)) for point in path.points]
        # Before anything is taught: where the safety adapter itself misses the target, the path cannot keep it.
        changes.append(walk[0][1]())
        first = _refusals(merge, attached, changes[0], merge.held_harm)
    (safest,) = fixed_sequence([first], target, delta)
    missed = not safest.accepted
    if missed and options.if_missed == "refuse":
        raise MergeError(_miss(safest, target, delta))
    skilled = merge.utility if path is None else path.skilled
    with CoreModel(model, spaces) as attached:

        def counts() -> Iterator[tuple[int, int]]:
            yield first
            for _, change in walk[1:]:
                changes.append(change())
                yield _refusals(merge, attached, changes[-1], merge.held_harm)
                if merge.problem.progress is not None:
                    merge.problem.progress("testing refusals", len(changes), len(walk))

        asked = counts()
        tested = fixed_sequence(asked, target, delta)
        if missed:
            rest = [Tested(k, n, lower_bound(k, n, delta), accepted=False) for k, n in asked]
            tested += rest
        found = measured_divergences(merge, attached, changes, skilled)
    steps = tuple(Step(*of) for of in zip(tested, found, (point for point, _ in walk), strict=False))
    if missed:
        chosen = max(steps, key=lambda step: (step.tested.kept, -step.divergence))
    else:
        chosen = min((step for step in steps if step.tested.accepted), key=lambda step: step.divergence)
    taught = {} if path is None else {name: of.to_dict() for name, of in path.taught.items()}
    return TargetChoice(target, 1.0 - delta, steps, chosen, changes[steps.index(chosen)], taught=taught)


def refine_at_target(merge: SSTMerge, choice: TargetChoice) -> TargetChoice:
    """Refine the chosen point, and ask the held-out prompts again, which no step of the refinement saw.

    The refined merge is kept where it passes the same test (where the target was missed: where it refuses as many
    prompts) at no more benign divergence. The point was chosen on the same prompts, so that after this second test the
    confidence is no longer that of the path alone.

    Args:
        merge: whose options have refinement steps.
        choice: of :func:`reach_target`.

    Returns:
        The choice with the refined merge, kept or not.
    """
    target, delta = _asked(merge.options)
    budget = max(_LEAST_BUDGET, min(choice.chosen.divergence, DEFAULT_BUDGET))
    change = merge.refined(choice.change, budget)
    with CoreModel(required_model(merge.problem), merge.problem.spaces) as attached:
        (tested,) = fixed_sequence([_refusals(merge, attached, change, merge.held_harm)], target, delta)
        (divergence,) = measured_divergences(merge, attached, [change])
    safe = tested.accepted if choice.reached else tested.kept >= choice.chosen.tested.kept
    kept = safe and divergence <= choice.chosen.divergence
    refined = Step(tested, divergence)
    return replace(choice, refined=refined, refined_kept=kept, change=change if kept else choice.change)


def _asked(options: SSTOptions) -> tuple[float, float]:
    """Target and δ."""
    assert options.safety_target is not None
    return options.safety_target, 1.0 - options.confidence


def _refuses(problem: MergeProblem) -> Refuses:
    """Who says what a refusal is.

    Raises:
        DataError: nobody.
    """
    if problem.refuses is None:
        raise DataError(
            "safety_target counts refusals, and nothing here says what a refusal is: give refuses=, such as "
            "sst_merge.judges.GreedyRefusals(tokenizer)"
        )
    return problem.refuses


def path_end(merge: SSTMerge, attached: CoreModel) -> float:
    """The factor of the safety adapter that refuses most, on prompts that are not tested on; of equals the least.

    Args:
        merge: with harmful prompts for the Fishers.
        attached: its model, with hooks in its spaces.

    Returns:
        f of :func:`~.safety_path.safety_path`.
    """
    if not any(bool(core.any()) for core in merge.patches.safety.values()):
        return 1.0
    asked: list[Batch] = []
    for batch in merge.fit_harm:
        if sum(map(len, asked)) < _ASKED_FOR_END:
            asked.append(batch)
    found = {f: _refusals(merge, attached, change_at(merge, safety_alone(f)), asked)[0] for f in _ENDS}
    return max(_ENDS, key=lambda f: (found[f], -f))


def _refusals(merge: SSTMerge, attached: CoreModel, change: Cores, asked: Sequence[Batch]) -> tuple[int, int]:
    """Prompts that the merge refuses, and how many were asked.

    Raises:
        DataError: another number of verdicts.
    """
    attached.set_point(merged_cores(merge.utility, change))
    asked = processes.shard(asked)
    prompts = sum(len(batch) for batch in asked)
    found = list(_refuses(merge.problem)(required_model(merge.problem), asked))
    if len(found) != prompts:
        raise DataError(f"refuses= gave {len(found)} verdicts on {prompts} prompts; expected one a prompt")
    refused, of = processes.sums("refusals", [sum(map(bool, found)), prompts])
    return int(refused), int(of)


def _counted(tested: Tested) -> str:
    return (
        f"{tested.kept} of {tested.prompts} held-out harmful prompts refused ({tested.kept / tested.prompts:.3f}; with "
        f"that confidence the rate is at least {tested.bound:.3f})"
    )


def _miss(tested: Tested, target: float, delta: float) -> str:
    allowed = allowed_misses(tested.prompts, target, delta)
    return (
        f"safety_target = {target:g} with confidence {1 - delta:g} cannot be reached: at the safest point of the path "
        f"(θ = 1, the safety patch whole and no skill) there are {_counted(tested)}, which misses the target by "
        f"{target - tested.bound:.3f}. Of {tested.prompts} prompts {allowed} may be answered, found "
        f"{tested.prompts - tested.kept}. Give a stronger safety adapter, more harm prompts or a lower target; or "
        "if_missed: safest, which writes the safest point and says so"
    )
