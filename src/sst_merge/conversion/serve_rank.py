"""One rank for all modules, of those that servers reserve memory for: by rows of zeros, or by a cut.

A larger rank is exact. A smaller one is the best approximation of each ΔW (Eckart-Young): a thin SVD in its core form,
which forms no ΔW. What it costs is known exactly: the squared singular values that are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..core_space import StackedSpace
from ..errors import ConversionError
from ..lora_utils import LoraFactors

__all__ = ["ModuleCut", "at_rank", "lost_share"]


@dataclass(frozen=True)
class ModuleCut:
    """What one module paid for its rank.

    Attributes:
        rank: before.
        energy: ‖ΔW‖²_F before.
        lost: ‖ΔW − ΔW′‖²_F; 0.0 where nothing was cut.
    """

    rank: int
    energy: float
    lost: float

    @property
    def share(self) -> float:
        """Share of the energy that is lost, from 0 to 1."""
        return self.lost / self.energy if self.energy > 0.0 else 0.0


def at_rank(factors: LoraFactors, rank: int) -> tuple[LoraFactors, ModuleCut]:
    """The update with exactly that many columns of B.

    Args:
        factors: B (d_out, r), A (r, d_in).
        rank: of the result, at least 1.

    Returns:
        The update in the type of the factors, and what the cut cost. Where r is at most ``rank``, ΔW is the same.

    Raises:
        ConversionError: the update has a bias column, which servers do not take.
    """
    if factors.bias:
        raise ConversionError(
            "a LoRA bias cannot be served: vLLM refuses lora_bias; write the adapter without --serve-rank, or write a "
            "whole model (--to full)"
        )
    wide = factors.to(dtype=torch.float64)
    space = StackedSpace.spanned_by([wide])
    core = space.coordinates[0]
    energy = float(core.square().sum())
    if factors.rank <= rank:
        return _padded(factors, rank), ModuleCut(factors.rank, energy, 0.0)
    cut, truncation = space.lift(core, rank=rank)
    lost = float(truncation.singular_values[truncation.rank :].square().sum())
    return _padded(cut.to(dtype=factors.b.dtype), rank), ModuleCut(factors.rank, energy, lost)


def lost_share(cuts: Iterable[ModuleCut]) -> float:
    """Share of the energy of all modules together that is lost."""
    found = list(cuts)
    energy = sum(cut.energy for cut in found)
    return sum(cut.lost for cut in found) / energy if energy > 0.0 else 0.0


def _padded(factors: LoraFactors, rank: int) -> LoraFactors:
    missing = rank - factors.rank
    if missing <= 0:
        return factors
    b = torch.nn.functional.pad(factors.b, (0, missing))
    a = torch.nn.functional.pad(factors.a, (0, 0, 0, missing))
    return LoraFactors(b, a, factors.kind)
