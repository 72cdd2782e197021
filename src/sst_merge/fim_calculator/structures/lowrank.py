"""The gradients themselves: exact, also across layers, and small while samples are few."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import LayerFisher, require_finite, require_shape

__all__ = ["SampleGradients"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleGradients(LayerFisher):
    """F = RᵀR with one row √(weight/N) vec(g) a sample.

    Sample n is row n in every layer, so that the Gram matrix over all layers is the sum of the layers' Grams.

    Attributes:
        rows: g of every sample, (N, p, q), in the type in which they were computed.
    """

    structure: ClassVar[str] = "lowrank"

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

    def factor(self) -> Tensor:
        """R with F = RᵀR, (N, pq), float64."""
        return self.rows.to(torch.float64).flatten(1) * (self.weight / self.samples) ** 0.5

    def matvec(self, core: Tensor) -> Tensor:
        """Rᵀ R vec(M).

        Args:
            core: M, (..., p, q).

        Returns:
            (..., p, q), float64.

        Raises:
            FisherError: another shape.
        """
        factor = self.factor()
        return (require_shape(core, self.shape).flatten(-2) @ factor.T @ factor).reshape(core.shape)

    def dense(self) -> Tensor:
        """(pq, pq)."""
        factor = self.factor()
        return factor.T @ factor

    def diagonal(self) -> Tensor:
        """(p, q)."""
        return self.factor().square().sum(0).reshape(self.shape)

    def variance(self) -> Tensor:
        """The variance of the gradient over samples, times the weight, (p, q)."""
        return self.weight * self.rows.to(torch.float64).var(0, correction=0)

    def tensors(self) -> dict[str, Tensor]:
        """The rows."""
        return {"rows": self.rows}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], counts: Mapping[str, int], weight: float) -> Self:
        """Rebuild from what is stored.

        Args:
            tensors: the rows.
            counts: N.
            weight: as in the attribute.

        Raises:
            FisherError: the rows do not fit N, or are not finite.
        """
        return cls(samples=counts["samples"], weight=weight, rows=tensors["rows"])

    def _plus(self, other: Self) -> Self:
        rows = torch.cat([self.rows, other.rows])
        return type(self)(samples=self.samples + other.samples, weight=self.weight, rows=rows)
