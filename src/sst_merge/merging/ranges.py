"""Updates of one module that are too far apart in size to be computed together."""

from collections.abc import Sequence

import torch

from ..errors import MergeError
from ..lora_utils import LoraFactors

__all__ = ["check_range"]

# Rounding of a sum is at most about this many units in the last place of its largest part.
_UNITS = 16.0
_PART = 0.1  # of a direction that may be lost
_NOTICEABLE = 1e-4  # an error of ΔW below this changes no model


def check_range(
    factors: Sequence[LoraFactors | None], weights: Sequence[float], names: Sequence[str], *, dtype: torch.dtype
) -> tuple[str, ...]:
    """Refuse directions that the rounding of a much larger one would swallow.

    A merge adds and decomposes all directions w·bₖaₖᵀ of a module at once, with an error of about ε times the largest.
    That is far below anything that matters while the largest is of the size of a weight. In an update that diverged it
    may be as large as all the rest, or as ΔW beside its bias.

    Args:
        factors: the updates of one module; None where an adapter does not touch it.
        weights: of the adapters.
        names: of the adapters, for the message.
        dtype: type of the computation.

    Returns:
        Adapters of which nothing is left in this module, although the largest is of no suspicious size: all of theirs
        lies below the last place of another's.

    Raises:
        MergeError: the largest and the smallest direction, and whose they are.
    """
    sizes: list[tuple[float, str]] = []
    error = last_place = 0.0
    for update, weight, name in zip(factors, weights, names, strict=True):
        if update is None:
            continue
        b, a = update.direction_norms
        found = [size for size in (abs(weight) * b * a).tolist() if size > 0]
        sizes += [(size, name) for size in found]
        last_place = max([last_place, *(size * torch.finfo(dtype).eps for size in found)])
        error = last_place * _UNITS
    if not sizes or error < _NOTICEABLE:
        heard = {name for size, name in sizes if size >= last_place}
        return tuple(dict.fromkeys(name for _, name in sizes if name not in heard))
    (smallest, lost), (largest, loud) = min(sizes), max(sizes)
    if error > _PART * smallest:
        raise MergeError(
            f"the update of adapter {loud!r} has a direction (or bias) of size {largest:.3g}, that of adapter {lost!r} "
            f"one of {smallest:.3g}, which its rounding would swallow; expected updates of the size of weights. The "
            f"training of {loud!r} most likely diverged: use another checkpoint, give a smaller weight, or leave the "
            f"module out (--leave-out)"
        )
    return ()
