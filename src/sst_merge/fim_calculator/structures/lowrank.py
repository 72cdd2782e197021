"""The gradients themselves: exact, also across layers, and small while samples are few."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import Form, LayerFisher, require_finite, require_shape
from .registry import fisher_structure
from .sums import SampleSums

__all__ = ["SampleGradients"]


class _Sums(SampleSums):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._rows: list[Tensor] = []

    def consume(self, gradients: Tensor) -> None:
        self._rows.append(gradients.cpu())

    def finish(self) -> dict[str, Any]:
        return {"rows": torch.cat(self._rows)}


@fisher_structure(sums=_Sums)
@dataclass(frozen=True, eq=False, kw_only=True)
class SampleGradients(LayerFisher):
    """F = RᵀR with one row √(weight/N) vec(g) a sample.

    Sample n is row n in every layer, so that the Gram matrix over all layers is the sum of the layers' Grams.

    Attributes:
        rows: g of every sample, (N, p, q), in the type in which they were computed.
    """

    structure: ClassVar[str] = "lowrank"
    form: ClassVar[Form] = "low-rank"

    rows: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows.ndim != 3 or self.rows.shape[0] != self.samples:
            raise FisherError(f"sample gradients of shape {tuple(self.rows.shape)}; expected ({self.samples}, p, q)")
        require_finite("rows", self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.rows.shape[1], self.rows.shape[2]

    def root(self) -> Tensor:
        """R with F = RᵀR, (N, pq), float64."""
        return self.rows.to(torch.float64).flatten(1) * (self.weight / self.samples) ** 0.5

    def matvec(self, core: Tensor) -> Tensor:
        """Rᵀ R vec(M).

        Raises:
            FisherError: another shape.
        """
        root = self.root()
        return (require_shape(core, self.shape).flatten(-2) @ root.T @ root).reshape(core.shape)

    def dense(self) -> Tensor:
        """(pq, pq)."""
        root = self.root()
        return root.T @ root

    def diagonal(self) -> Tensor:
        """(p, q)."""
        return self.root().square().sum(0).reshape(self.shape)

    def variance(self) -> Tensor:
        """The variance of the gradient over samples, times the weight, (p, q)."""
        return self.weight * self.rows.to(torch.float64).var(0, correction=0)

    def _sums_with(self, other: Self) -> dict[str, Any]:
        return {"samples": self.samples + other.samples, "rows": torch.cat([self.rows, other.rows])}

    def reordered(self, order: Tensor) -> Self:
        """The rows in another order."""
        return replace(self, rows=self.rows[order])
