"""Sign conflicts between updates: the one figure that needs the entries of ΔW.

Rows of ΔW are formed in blocks of about a megabyte, all adapters' blocks together, so that memory does not grow with
the layer. Every update is divided by its root mean square entry first: thresholds and products are then free of scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ..lora_utils import LoraFactors

__all__ = ["SignCounts", "count_signs"]

_BLOCK_ENTRIES = 1 << 18


@dataclass(frozen=True)
class SignCounts:
    """Sums over entries; those of several modules add up.

    Attributes:
        both: entries in which neither update is negligible.
        opposite: those of them in which the signs differ.
        product: Σ|x·y| over all entries.
        opposite_product: the part of it in which the signs differ.
    """

    both: int = 0
    opposite: int = 0
    product: float = 0.0
    opposite_product: float = 0.0

    def __add__(self, other: "SignCounts") -> "SignCounts":
        return SignCounts(
            self.both + other.both,
            self.opposite + other.opposite,
            self.product + other.product,
            self.opposite_product + other.opposite_product,
        )

    @property
    def share(self) -> float | None:
        """Share of opposite signs among the entries that both move; None where there are none."""
        return self.opposite / self.both if self.both else None

    @property
    def weighted_share(self) -> float | None:
        """The same over all entries, each weighted by |x·y|; None where the updates share no entry."""
        return self.opposite_product / self.product if self.product > 0 else None


def count_signs(
    updates: Sequence[LoraFactors], norms: Sequence[float], *, negligible: float
) -> dict[tuple[int, int], SignCounts]:
    """Compare the signs of every pair of updates of one module.

    Args:
        updates: same shape, all with or all without a bias column (which is compared too).
        norms: ‖ΔW‖_F of each.
        negligible: an entry counts where |ΔW_ij| is above this multiple of its update's root mean square.

    Returns:
        (i, j) with i < j → counts; pairs with a zero update have no entries in common.
    """
    entries = updates[0].d_out * updates[0].a.shape[1]
    scales = [norm / entries**0.5 for norm in norms]
    moving = [index for index, scale in enumerate(scales) if scale > 0]
    unit = {index: _widened(updates[index].b) / scales[index] for index in moving}
    rows = {index: _widened(updates[index].a) for index in moving}
    counts = dict.fromkeys(combinations(range(len(updates)), 2), SignCounts())
    step = max(1, _BLOCK_ENTRIES // updates[0].a.shape[1])
    for start in range(0, updates[0].d_out, step):
        blocks = {index: unit[index][start : start + step] @ rows[index] for index in moving}
        large = {index: block.abs() > negligible for index, block in blocks.items()}
        for first, second in combinations(moving, 2):
            found = _compare(blocks[first] * blocks[second], large[first] & large[second])
            counts[first, second] += found
    return {
        (i, j): SignCounts(
            c.both, c.opposite, c.product * scales[i] * scales[j], c.opposite_product * scales[i] * scales[j]
        )
        for (i, j), c in counts.items()
    }


def _compare(product: Tensor, both: Tensor) -> SignCounts:
    opposite = both & (product < 0)
    negative = -float(product.clamp_max(0).sum())
    return SignCounts(int(both.sum()), int(opposite.sum()), float(product.abs().sum()), negative)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(torch.float32, tensor.dtype))
