"""Who teaches what in one merge: every skill on prompts of its own, the safe model on harmful ones, the base on others.

A skill without prompts of its own is taught by the merged skills on the benign prompts that are nobody's. Where every
skill has its own, those prompts are the base's: on them nothing should change.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data_loader.batch import Batch
from ..errors import MergeError
from .calibration_split import batch_rows, split_batches
from .teacher_objective import Teacher

if TYPE_CHECKING:
    import torch

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
    own = {a.name: problem.adapter_benign.get(a.name, ()) for a in skills}
    found = []
    for place, skill in enumerate(skills):
        fit, held = split_batches(own[skill.name], options.calibration_holdout, problem.seed + 2 + place)
        found.append(Teacher(skill.name, merge.each[skill.name], skill.weight / total, fit, held))
    untaught = sum(a.weight for a in skills if not own[a.name]) / total
    taken = {row for batches in own.values() for batch in batches for row in _keys(batch)}
    fit, held = _others(merge.fit_benign, taken), _others(merge.held_benign, taken)
    if untaught:
        found.append(Teacher("merged skills", merge.utility, untaught, fit, held))
    else:
        found.append(Teacher("base", None, 1.0 / len(skills), fit, held))
    if nu:
        safe = None if options.aligned_base else {m: strength * core for m, core in merge.patches.safety.items()}
        fit, held = map(tuple, harm or (merge.fit_harm, merge.held_harm))
        found.append(Teacher("aligned base" if safe is None else "safety", safe, nu, fit, held))
    return tuple(teacher for teacher in found if teacher.weight and (teacher.fit or teacher.held))


def _others(batches: Sequence[Batch], taken: set[tuple[int, ...]]) -> tuple[Batch, ...]:
    """The samples that are nobody's own."""
    kept = []
    for batch in batches:
        kept += batch_rows(batch, _mask(batch, taken))
    return tuple(kept)


def _mask(batch: Batch, taken: set[tuple[int, ...]]) -> "torch.Tensor":
    import torch

    return torch.tensor([row not in taken for row in _keys(batch)], device=batch.input_ids.device)


def _keys(batch: Batch) -> list[tuple[int, ...]]:
    """Every sample's tokens without padding."""
    pairs = zip(batch.input_ids, batch.attention_mask, strict=True)
    return [tuple(ids[mask.bool()].tolist()) for ids, mask in pairs]
