"""Kronecker-factored Fisher (K-FAC, arXiv:1503.05671; the "expand" setting of arXiv:2311.00636 for sequences)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import LayerFisher, require_gram, require_shape

__all__ = ["KroneckerFisher"]


@dataclass(frozen=True, eq=False, kw_only=True)
class KroneckerFisher(LayerFisher):
    """F = G ⊗ A with G = Σδδᵀ / N and A = Σxxᵀ / T, δ and x the token's projections Uᵀδ_t and Vᵀx_t.

    Attributes:
        gradient_outer: Σ δ δᵀ over all tokens, (p, p), float64.
        input_outer: Σ x xᵀ over all tokens, (q, q), float64.
        tokens: T, how many tokens that are not padding the sums run over.
    """

    structure: ClassVar[str] = "kronecker"

    gradient_outer: Tensor
    input_outer: Tensor
    tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise FisherError(f"kronecker Fisher of {self.tokens} tokens; at least one is needed")
        require_gram("gradient_outer", self.gradient_outer)
        require_gram("input_outer", self.input_outer)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.gradient_outer.shape[0], self.input_outer.shape[0]

    @property
    def grad_factor(self) -> Tensor:
        """G = weight · Σδδᵀ / N, (p, p)."""
        return self.gradient_outer * (self.weight / self.samples)

    @property
    def input_factor(self) -> Tensor:
        """A = Σxxᵀ / T, (q, q)."""
        return self.input_outer / self.tokens

    def matvec(self, core: Tensor) -> Tensor:
        """G M A.

        Args:
            core: M, (..., p, q).

        Returns:
            (..., p, q), float64.

        Raises:
            FisherError: another shape.
        """
        return self.grad_factor @ require_shape(core, self.shape) @ self.input_factor

    def dense(self) -> Tensor:
        """(pq, pq)."""
        return torch.kron(self.grad_factor, self.input_factor)

    def diagonal(self) -> Tensor:
        """(p, q): outer product of the factors' diagonals."""
        return torch.outer(self.grad_factor.diagonal(), self.input_factor.diagonal())

    def tensors(self) -> dict[str, Tensor]:
        """Both sums of outer products."""
        return {"gradient_outer": self.gradient_outer, "input_outer": self.input_outer}

    def counts(self) -> dict[str, int]:
        """N and T."""
        return {"samples": self.samples, "tokens": self.tokens}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], counts: Mapping[str, int], weight: float) -> Self:
        """Rebuild from what is stored.

        Args:
            tensors: both sums.
            counts: N and T.
            weight: as in the attribute.

        Raises:
            FisherError: the numbers are not sums of outer products.
        """
        return cls(samples=counts["samples"], tokens=counts["tokens"], weight=weight, **dict(tensors))

    def _plus(self, other: Self) -> Self:
        return type(self)(
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
            weight=self.weight,
            gradient_outer=self.gradient_outer + other.gradient_outer,
            input_outer=self.input_outer + other.input_outer,
        )
