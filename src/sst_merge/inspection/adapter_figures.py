"""One adapter in numbers, module by module; a bias column counts as one more input (:mod:`~..lora_utils.factors`)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..core_space import ThinSVD, effective_rank
from ..lora_utils import Adapter, StoredForm
from .names import target_of

__all__ = ["AdapterFigures", "UpdateFigures", "update_figures"]


@dataclass(frozen=True)
class UpdateFigures:
    """ΔW of one module.

    Attributes:
        shape: (d_out, d_in).
        kind: ``linear``, ``conv1d`` or ``embedding``.
        bias: whether the update moves the module's bias.
        rank: columns of B, one more than in the file with a bias.
        numerical_rank: singular values above rounding.
        effective_rank: exp(H(σ/Σσ)), H the Shannon entropy (Roy and Vetterli, EUSIPCO 2007).
        norm: ‖ΔW‖_F.
        spectral_norm: σ₁.
    """

    shape: tuple[int, int]
    kind: str
    bias: bool
    rank: int
    numerical_rank: int
    effective_rank: float
    norm: float
    spectral_norm: float


@dataclass(frozen=True)
class AdapterFigures:
    """One adapter.

    Attributes:
        name: as the user calls it.
        role: ``utility`` or ``safety``.
        weight: factor in the weighted sum; in none of the figures here.
        base_model: base that its configuration names, or None.
        task_type: PEFT's task type, or None.
        stored: how it lies on disk; None for an adapter in memory.
        left_out: tensors of the file that are no part of ΔW.
        modules: module name → figures, in natural order.
    """

    name: str
    role: str
    weight: float
    base_model: str | None
    task_type: str | None
    stored: StoredForm | None
    left_out: tuple[str, ...]
    modules: Mapping[str, UpdateFigures]

    @property
    def norm(self) -> float:
        """‖ΔW‖_F over all modules."""
        return sum(figures.norm**2 for figures in self.modules.values()) ** 0.5

    @property
    def spectral_norm(self) -> float:
        """Largest singular value of any module."""
        return max(figures.spectral_norm for figures in self.modules.values())

    @property
    def effective_rank(self) -> float:
        """Median over the modules."""
        return float(median(figures.effective_rank for figures in self.modules.values()))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Distinct ranks of the factors, ascending."""
        return tuple(sorted({figures.rank for figures in self.modules.values()}))

    @property
    def targets(self) -> Mapping[str, int]:
        """Target type, such as ``q_proj`` → number of modules."""
        return dict(sorted(Counter(target_of(module) for module in self.modules).items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "role": self.role,
            "weight": self.weight,
            "base_model": self.base_model,
            "task_type": self.task_type,
            "stored": None if self.stored is None else asdict(self.stored),
            "left_out": list(self.left_out),
            "ranks": list(self.ranks),
            "norm": self.norm,
            "spectral_norm": self.spectral_norm,
            "effective_rank": self.effective_rank,
            "module_count": len(self.modules),
            "targets": dict(self.targets),
            "modules": {module: asdict(figures) for module, figures in self.modules.items()},
        }


def update_figures(adapter: Adapter, module: str, svd: ThinSVD) -> UpdateFigures:
    """Figures of one module.

    Args:
        adapter: that touches it.
        module: canonical name.
        svd: of its ΔW.
    """
    values = svd.values
    return UpdateFigures(
        shape=adapter.shape(module),
        kind=str(adapter.kind(module)),
        bias=adapter.has_bias(module),
        rank=adapter.rank(module),
        numerical_rank=values.numel(),
        effective_rank=effective_rank(values),
        norm=float(values.square().sum().sqrt()),
        spectral_norm=float(values[0]) if values.numel() else 0.0,
    )
