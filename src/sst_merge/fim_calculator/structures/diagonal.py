"""Diagonal Fisher: every entry of the core on its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import LayerFisher, require_finite, require_shape

__all__ = ["DiagonalFisher"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DiagonalFisher(LayerFisher):
    """F = diag(E[g²]), with the mean gradient kept for the variance E[g²] - E[g]².

    Attributes:
        gradient_sum: Σ g over samples, (p, q), float64.
        square_sum: Σ g² over samples, (p, q), float64.
    """

    structure: ClassVar[str] = "diagonal"

    gradient_sum: Tensor
    square_sum: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_sum.shape != self.square_sum.shape or self.square_sum.ndim != 2:
            raise FisherError(
                f"diagonal Fisher: sums of shapes {tuple(self.gradient_sum.shape)} and {tuple(self.square_sum.shape)}; "
                "both must be (p, q)"
            )
        require_finite("gradient_sum", self.gradient_sum)
        require_finite("square_sum", self.square_sum)
        if float(self.square_sum.min()) < 0.0:
            raise FisherError("diagonal Fisher: square_sum is negative somewhere; it is no sum of squares")

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.square_sum.shape[0], self.square_sum.shape[1]

    def matvec(self, core: Tensor) -> Tensor:
        """E[g²] ∘ M.

        Args:
            core: M, (..., p, q).

        Returns:
            (..., p, q), float64.

        Raises:
            FisherError: another shape.
        """
        return self.diagonal() * require_shape(core, self.shape)

    def dense(self) -> Tensor:
        """(pq, pq)."""
        return torch.diag(self.diagonal().flatten())

    def diagonal(self) -> Tensor:
        """E[g²], (p, q)."""
        return self.square_sum * (self.weight / self.samples)

    def variance(self) -> Tensor:
        """E[g²] - E[g]², (p, q): the variance of the gradient over samples, times the weight."""
        mean = self.gradient_sum / self.samples
        # Rounding can make the difference of two nearly equal numbers negative; a variance is not.
        return self.weight * (self.square_sum / self.samples - mean.square()).clamp_min(0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Σg and Σg²."""
        return {"gradient_sum": self.gradient_sum, "square_sum": self.square_sum}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], counts: Mapping[str, int], weight: float) -> Self:
        """Rebuild from what is stored.

        Args:
            tensors: Σg and Σg².
            counts: N.
            weight: as in the attribute.

        Raises:
            FisherError: the numbers are not sums of squares.
        """
        return cls(samples=counts["samples"], weight=weight, **dict(tensors))

    def _plus(self, other: Self) -> Self:
        return type(self)(
            samples=self.samples + other.samples,
            weight=self.weight,
            gradient_sum=self.gradient_sum + other.gradient_sum,
            square_sum=self.square_sum + other.square_sum,
        )
