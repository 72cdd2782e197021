"""The plain weighted sum of all adapters: its exact spectrum, and the rank that holds a share of its energy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..core_space import StackedSpace, effective_rank, numerical_rank, rank_for_energy
from ..lora_utils import LoraFactors

__all__ = ["ENERGIES", "RankSpread", "SumFigures", "SummedUpdate", "sum_spectrum"]

ENERGIES = (0.9, 0.99)


@dataclass(frozen=True)
class SummedUpdate:
    """Σ wᵢ ΔWᵢ of one module.

    Attributes:
        touched_by: names of the adapters that touch it.
        bound: rank that a sum of factors can have, min(d_out, d_in, Σ rᵢ).
        values: singular values above rounding, descending; none where the updates cancel.
    """

    touched_by: tuple[str, ...]
    bound: int
    values: tuple[float, ...]

    @property
    def rank(self) -> int:
        """The exact rank."""
        return len(self.values)

    @property
    def norm(self) -> float:
        """‖Σ wᵢ ΔWᵢ‖_F."""
        return sum(value**2 for value in self.values) ** 0.5

    @property
    def effective_rank(self) -> float:
        """exp(H(σ/Σσ)) (Roy and Vetterli, EUSIPCO 2007)."""
        return effective_rank(self._tensor())

    def rank_for(self, energy: float) -> int:
        """The smallest rank that holds a share of the module's energy."""
        return rank_for_energy(self._tensor(), energy) if self.values else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "touched_by": list(self.touched_by),
            "norm": self.norm,
            "spectral_norm": self.values[0] if self.values else 0.0,
            "effective_rank": self.effective_rank,
            "rank": self.rank,
            "rank_bound": self.bound,
            "rank_for_energy": {f"{energy:g}": self.rank_for(energy) for energy in ENERGIES},
        }

    def _tensor(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True)
class RankSpread:
    """Ranks over the modules.

    Attributes:
        smallest: of all modules.
        median: of all modules.
        largest: of all modules; an adapter of this rank holds the share in every module.
        together: smallest one rank for all modules that holds the share of the energy of all modules together.
    """

    smallest: int
    median: float
    largest: int
    together: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SumFigures:
    """The weighted sum.

    Attributes:
        modules: module name → figures, in natural order.
        perpendicular_norm: (Σ wᵢ²‖ΔWᵢ‖²_F)^½: the sum's norm if no two adapters shared a direction.
    """

    modules: Mapping[str, SummedUpdate]
    perpendicular_norm: float

    @property
    def norm(self) -> float:
        """‖Σ wᵢ ΔWᵢ‖_F over all modules."""
        return sum(module.norm**2 for module in self.modules.values()) ** 0.5

    @property
    def rank(self) -> int:
        """Largest exact rank of any module: r of the exact merge."""
        return max(1, *(module.rank for module in self.modules.values()))

    @property
    def recommended_rank(self) -> int:
        """The rank at which every module of the plain sum keeps at least 99 % of its energy."""
        return max(1, self.spread(ENERGIES[-1]).largest)

    @property
    def effective_rank(self) -> float:
        """Median over the modules."""
        return float(median(module.effective_rank for module in self.modules.values()))

    def spread(self, energy: float) -> RankSpread:
        """Ranks that hold a share of the energy."""
        ranks = [module.rank_for(energy) for module in self.modules.values()]
        squares = torch.zeros(self.rank, dtype=torch.float64)
        for module in self.modules.values():
            squares[: module.rank] += torch.tensor(module.values, dtype=torch.float64).square()
        return RankSpread(min(ranks), float(median(ranks)), max(ranks), rank_for_energy(squares.sqrt(), energy))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "norm": self.norm,
            "perpendicular_norm": self.perpendicular_norm,
            "effective_rank": self.effective_rank,
            "rank": self.rank,
            "rank_for_energy": {f"{energy:g}": self.spread(energy).to_dict() for energy in ENERGIES},
            "recommended_rank": self.recommended_rank,
            "modules": {name: module.to_dict() for name, module in self.modules.items()},
        }


def sum_spectrum(updates: Sequence[LoraFactors], weights: Sequence[float], scale: float) -> tuple[float, ...]:
    """Singular values of Σ wᵢ ΔWᵢ, exact in the core space.

    Args:
        updates: of one module, in float64.
        weights: wᵢ.
        scale: largest |wᵢ|·σ₁(ΔWᵢ): what rounding is measured against.

    Returns:
        Values above rounding, descending.
    """
    space = StackedSpace.spanned_by(updates)
    core = torch.zeros(space.shape, dtype=updates[0].b.dtype)
    for coordinates, weight in zip(space.coordinates, weights, strict=True):
        core += weight * coordinates
    values = torch.linalg.svdvals(core)
    size = max(100, updates[0].b.shape[0], updates[0].a.shape[1])
    return tuple(values[: numerical_rank(values, size, scale=scale)].tolist())
