"""Diagonal Fisher: every entry of the core on its own."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import FisherError
from .base import Form, LayerFisher, require_finite, require_shape
from .registry import fisher_structure
from .sums import SampleSums

__all__ = ["DiagonalFisher"]


class _Sums(SampleSums):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._sum, self._squares = self.zeros(*shape), self.zeros(*shape)

    def consume(self, gradients: Tensor) -> None:
        wide = gradients.to(torch.float64)
        self._sum += wide.sum(0)
        self._squares += wide.square().sum(0)

    def finish(self) -> dict[str, Any]:
        return {"gradient_sum": self._sum.cpu(), "square_sum": self._squares.cpu()}


@fisher_structure(sums=_Sums)
@dataclass(frozen=True, eq=False, kw_only=True)
class DiagonalFisher(LayerFisher):
    """F = diag(E[g²]), with the mean gradient kept for the variance E[g²] - E[g]².

    Attributes:
        gradient_sum: Σ g over samples, (p, q), float64.
        square_sum: Σ g² over samples, (p, q), float64.
    """

    structure: ClassVar[str] = "diagonal"
    form: ClassVar[Form] = "diagonal"

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
