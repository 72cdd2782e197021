"""Which texts a merge reads, and how often: every stage of a method, from its options; nothing is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..sst.safety_path import POINTS
from ..sst.settling import KnownData, settled
from ..sst.taught_path import TAUGHT_MU, TAUGHT_POINTS
from ..sst.teacher_refine import PASSES
from .plan import MergePlan

if TYPE_CHECKING:
    from ..data_loader import Batch

__all__ = ["Stage", "TextSize", "is_wide", "passes_of"]


@dataclass(frozen=True)
class TextSize:
    """How much text a set of batches is.

    Attributes:
        samples: how many.
        tokens: that are computed, padding included.
        answers: tokens of answers.
        largest: (tokens, answer tokens) of the largest batch.
        batches: how many.
    """

    samples: int = 0
    tokens: int = 0
    answers: int = 0
    largest: tuple[int, int] = (0, 0)
    batches: int = 1

    @classmethod
    def of(cls, batches: "Sequence[Batch]") -> "TextSize":
        """Of encoded batches."""
        sizes = [(batch.input_ids.numel(), batch.answers) for batch in batches]
        return cls(
            sum(map(len, batches)),
            sum(tokens for tokens, _ in sizes),
            sum(answers for _, answers in sizes),
            max(sizes, default=(0, 0)),
            max(1, len(batches)),
        )

    def share(self, part: float) -> "TextSize":
        """That share of the samples, in batches that may still be as large."""
        tokens, answers = round(self.tokens * part), round(self.answers * part)
        largest = min(self.largest[0], tokens), min(self.largest[1], answers)
        return TextSize(round(self.samples * part), tokens, answers, largest, max(1, round(self.batches * part)))


Stage = tuple[str, TextSize, float, float]
"""(name, text, forward passes, backward passes); steps of training make parts of a pass."""


def _read(plan: MergePlan, data: Mapping[str, TextSize]) -> list[Stage]:
    """The stages of a method that declares how often it reads its data."""
    reads, none = plan.method.reads, TextSize()
    harm, benign = ("harmful prompts", data.get("harm", none)), ("benign prompts", data.get("benign", none))
    own = [(name, text) for name, text in data.items() if name not in {"harm", "benign"}]
    # What a step takes one batch of; several texts are taken in turns.
    sets: list[list[tuple[str, TextSize]]]
    match reads.of:
        case "harm" | "benign":
            sets = [[harm if reads.of == "harm" else benign]]
        case "common":
            sets = [[harm], [benign]]
        case "all":
            sets = [[harm], [benign, *own]]
        case "adapters" | "skills":
            judged = dict(own)
            common = {"safety": harm, "utility": benign}
            sets = [
                [(f"benign of {a.name}", judged[f"benign of {a.name}"])]
                if judged.get(f"benign of {a.name}", none).samples
                else [(f"{common[a.role][0]}, for {a.name}", common[a.role][1])]
                for a in plan.adapters
                if reads.of == "adapters" or a.role == "utility"
            ]
    steps = 0 if reads.steps is None else int(getattr(plan.options, reads.steps))
    stages: list[Stage] = []
    for texts in sets:
        there = [(name, text) for name, text in texts if text.samples]
        turns = steps / max(1, sum(text.batches for _, text in there))
        back = reads.gradients + turns
        stages += [(f"reading {name}", text, reads.forward + back, back) for name, text in there]
    return stages


def passes_of(plan: MergePlan, data: Mapping[str, TextSize], only: str | None) -> list[Stage]:
    """Every stage that reads data, in order.

    Args:
        plan: a checked merge.
        data: ``harm``, ``benign`` and ``benign of NAME`` for adapters with data of their own → how much text.
        only: of a single Fisher: ``harm``, ``benign`` or ``benign of NAME``.

    Returns:
        The stages.
    """
    options: Any = plan.options
    none = TextSize()
    if plan.method.name != "sst":
        return _read(plan, data)
    own = {a.name: data.get(f"benign of {a.name}", none) for a in plan.adapters}
    harm, benign = data.get("harm", none), data.get("benign", none)
    weighted = {a.name: (a.weight, own[a.name].samples) for a in plan.adapters if a.role == "utility"}
    known = KnownData(len(plan.adapters), harm.samples, benign.samples, weighted)
    options = settled(options, known)
    aside = options.calibration_holdout
    fit_harm, held_harm = harm.share(1 - options.harm_holdout), harm.share(options.harm_holdout)
    fit_benign, held_benign = benign.share(1 - aside), benign.share(aside)
    stages: list[Stage] = []
    fisher, skills = options.fisher, options.utility == "fisher"
    common = {a.name: fit_harm if a.role == "safety" else fit_benign for a in plan.adapters}
    judged = {name: text if text.samples else common[name] for name, text in own.items()}
    if is_wide(plan) and only is None:
        stages += [(f"inputs of adapter {name}", text, 1, 0) for name, text in judged.items()]
    if fisher.point == "trust" and fisher.trust_share is None and only in {None, "harm", "benign"}:
        stages.append(("trust region", held_benign if aside else fit_benign, 7, 0))
    for name, text in (("harm", fit_harm), ("benign", fit_benign)):
        pooled = only == name or (only is None and not (skills and name == "benign"))
        if pooled and getattr(fisher, name) is None:
            stages.append((f"Fisher of {name}{'ful' if name == 'harm' else ''} prompts", text, 1, 1))
    for adapter in plan.adapters:
        asked = only == f"benign of {adapter.name}" or (only is None and skills and adapter.role == "utility")
        if asked and adapter.name not in fisher.skills and judged[adapter.name].samples:
            stages.append((f"Fisher of adapter {adapter.name}", judged[adapter.name], 1, 1))
    if only is not None:
        return stages
    judged_on = _together(held_benign, *(own[name].share(aside) for name in known.skills))
    if options.budget is not None:
        tried = (9 + 5) * max(1, len(options.tune_strengths))
        stages.append(("choosing coefficients, harmful", held_harm, tried, 0))
        stages.append(("choosing coefficients, benign", judged_on, tried + 2, 0))
    target = options.safety_target is not None
    if options.refine == "teachers":
        safe = len(known.skills) < known.adapters or options.aligned_base
        # A teacher speaks once; then steps and looks. Common prompts that are a skill's own count twice here.
        teachers = {a.name: own[a.name] for a in plan.adapters if a.role == "utility" and own[a.name].samples}
        shared = {"common prompts": benign} | ({"harmful prompts": fit_harm if target else harm} if safe else {})
        several = len(known.skills) > 1 and bool(teachers)
        for name, text in {**teachers, **shared}.items():
            # Where they are the base's, a pass takes no more of them than of a skill.
            few = name == "common prompts" and len(teachers) == len(known.skills)
            most = max((own[skill].samples for skill in teachers), default=0) / max(1, text.samples) if few else 1.0
            passes = PASSES * min(1.0, most)
            # A target's path has two taught merges with safety, and the skills' own where several have data.
            merges = 1 if not target else len(TAUGHT_MU) + int(several and name != "harmful prompts")
            # At the first rate; where the first look is worse than the start, some passes come again.
            stages.append((f"learning from {name}", text.share(1 - aside), merges * (passes + 1), merges * passes))
            looks = merges * (PASSES // 2 + 2)
            stages.append((f"looks at what is held out of {name}", text.share(aside), looks, 0))
            if not target:  # at most: as many as it took to the best point
                stages.append((f"learning from all of {name}", text, passes, passes))
    elif options.refine:
        both = TextSize(
            fit_harm.samples + fit_benign.samples,
            fit_harm.largest[0] + fit_benign.largest[0],
            fit_harm.largest[1] + fit_benign.largest[1],
            max(fit_harm.largest, fit_benign.largest),
        )
        stages.append(("refining coefficients", both, options.refine, options.refine))
    if target:
        # At most: the walk ends at the first point that misses. Answers' tokens are few beside the prompts'.
        points = TAUGHT_POINTS if options.refine == "teachers" else POINTS
        stages.append(("testing refusals", held_harm, points, 0))
        stages.append(("divergence of the tested points", judged_on, points + 1, 0))
    if options.utility != "fisher" and aside:
        stages.append(("held-out, harmful", held_harm, 1, 1))
        stages.append(("held-out, benign", held_benign, 1, 1))
    return stages


def _together(*texts: TextSize) -> TextSize:
    return TextSize(
        sum(text.samples for text in texts),
        sum(text.tokens for text in texts),
        sum(text.answers for text in texts),
        max(text.largest for text in texts),
        sum(text.batches for text in texts),
    )


def is_wide(plan: MergePlan) -> bool:
    """Whether core spaces also hold the inputs of the skills' merge (``inputs: wide`` of ``sst``)."""
    return getattr(plan.options, "inputs", None) == "wide" and plan.method.name == "sst"
