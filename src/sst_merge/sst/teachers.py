"""Who teaches what in one merge: every skill on prompts of its own, the safe model on harmful ones, the base on others.

A skill without prompts of its own is taught by the merged skills on the benign prompts that are nobody's. Where every
skill has its own, those prompts are the base's: on them nothing should change. One pass takes no more of them than of
the skill that has most.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data_loader.batch import Batch
from ..errors import MergeError
from .calibration_split import samples_of, without_samples
from .teacher_objective import Teacher

if TYPE_CHECKING:
    from .merge_fishers import MergeFishers

__all__ = ["teachers_of"]


def teachers_of(
    merge: "MergeFishers",
    nu: float,
    harm: tuple[Sequence[Batch], Sequence[Batch]] | None = None,
    strength: float = 1.0,
) -> tuple[Teacher, ...]:
    """Teachers of a merge and their weights in J.

    The skills' weights sum to 1, in the ratio of the adapters'; the base counts as one skill more.

    Args:
        merge: adapters, patches, calibration data and their split.
        nu: weight ν of the safe model: the safety adapters, or the base where none is merged; 0 for skills alone.
        harm: harmful prompts of the steps and held out from them; by default the merge's two parts.
        strength: multiplies M_S as a teacher.

    Returns:
        Those that have prompts and a weight.

    Raises:
        MergeError: a skill's weight is negative, or all are 0.
    """
    problem, options = merge.problem, merge.options
    skills = [a for a in problem.adapters if a.role == "utility"]
    total = sum(a.weight for a in skills)
    if total <= 0 or min(a.weight for a in skills) < 0:
        raise MergeError(
            f"refine: teachers needs weights ≥ 0 of the utility adapters, not all 0; found {[a.weight for a in skills]}"
        )
    found = [Teacher(a.name, merge.each[a.name], a.weight / total, *merge.own_parts(a.name)) for a in skills]
    untaught = sum(a.weight for a in skills if not problem.adapter_benign.get(a.name)) / total
    taken = samples_of(batch for batches in problem.adapter_benign.values() for batch in batches)
    fit, held = without_samples(merge.fit_benign, taken), without_samples(merge.held_benign, taken)
    if untaught:
        found.append(Teacher("merged skills", merge.utility, untaught, fit, held))
    else:
        # It weighs as one skill, and takes the time of one.
        most = max(sum(map(len, teacher.fit)) for teacher in found)
        found.append(Teacher("base", None, 1.0 / len(skills), fit, held, per_pass=most))
    if nu:
        safe = None if options.aligned_base else {m: strength * core for m, core in merge.patches.safety.items()}
        fit, held = map(tuple, harm or (merge.fit_harm, merge.held_harm))
        found.append(Teacher("aligned base" if safe is None else "safety", safe, nu, fit, held))
    return tuple(teacher for teacher in found if teacher.weight and (teacher.fit or teacher.held))
