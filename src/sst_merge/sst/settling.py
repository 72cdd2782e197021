"""What the options leave open until the merge's data are known: ``refine: auto``, and whether prompts are held out."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..methods import MergeProblem
from .options import SSTOptions

__all__ = ["KnownData", "settled", "why_not_taught"]


@dataclass(frozen=True)
class KnownData:
    """As much of a merge as is known before anything is computed.

    Attributes:
        adapters: how many are merged.
        harm: harmful prompts.
        benign: common benign prompts.
        skills: utility adapter → its weight and how many benign prompts of its own it has.
    """

    adapters: int
    harm: int
    benign: int
    skills: Mapping[str, tuple[float, int]]

    @classmethod
    def of(cls, problem: MergeProblem) -> "KnownData":
        """Of a merge with all its batches."""
        own = {name: sum(map(len, batches)) for name, batches in problem.adapter_benign.items()}
        skills = {a.name: (a.weight, own.get(a.name, 0)) for a in problem.adapters if a.role == "utility"}
        return cls(len(problem.adapters), sum(map(len, problem.harm)), sum(map(len, problem.benign)), skills)


def why_not_taught(options: SSTOptions, known: KnownData) -> str | None:
    """What keeps ``refine: auto`` from teachers.

    Args:
        options: as they were given.
        known: the merge.

    Returns:
        The first reason, as a clause; None where teachers can be taken.
    """
    if _chosen(options):
        return "a budget or a hard filter chooses"
    if options.calibration_holdout == 0:
        return "calibration_holdout is 0, and teachers look at held-out prompts"
    if known.adapters < 2 and not options.aligned_base:
        return "one adapter alone is no merge"
    few = [name for name, (_, own) in known.skills.items() if own == 1]
    if few:
        return f"{few[0]!r} has one benign prompt of its own, too few to hold any out"
    for kind, count in (("harmful", known.harm), ("benign", known.benign)):
        if count == 1:
            return f"one {kind} prompt is too few to hold any out"
    if options.safety_target is not None and known.harm - round(options.harm_holdout * known.harm) < 2:
        return "the target is tested on all harmful prompts but one, and the teachers look at others"
    bare = [name for name, (_, own) in known.skills.items() if own == 0]
    if bare and not known.benign:
        return f"there are no benign prompts to judge {bare[0]!r} on"
    if bare and len(known.skills) == known.adapters and not options.aligned_base:
        return f"{bare[0]!r} has no benign prompts of its own (`data:`), and without safety nothing is left to learn"
    weights = [weight for weight, _ in known.skills.values()]
    if min(weights, default=0.0) < 0 or sum(weights) <= 0:
        return "a skill's weight is negative, or all are 0"
    return None


def settled(options: SSTOptions, known: KnownData) -> SSTOptions:
    """Options of one merge.

    Args:
        options: as they were given.
        known: the merge.

    Returns:
        The same without ``refine: auto``; with ``inputs: wide`` prompts are held out only where something reads them:
        what chooses μ, a trust region, or refinement.
    """
    if options.refine == "auto":
        refine = "teachers" if why_not_taught(options, known) is None else 0
        options = options.model_copy(update={"refine": refine})
    chosen = _chosen(options) or options.safety_target is not None
    read = options.refine != 0 or options.inputs != "wide" or chosen or options.fisher.point == "trust"
    if read or "calibration_holdout" in options.model_fields_set:
        return options
    return options.model_copy(update={"calibration_holdout": 0.0})


def _chosen(options: SSTOptions) -> bool:
    return options.budget is not None or options.filter != "soft"
