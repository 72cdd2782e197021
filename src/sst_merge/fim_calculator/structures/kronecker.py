"""Kronecker-factored Fisher (K-FAC, arXiv:1503.05671; the "expand" setting of arXiv:2311.00636 for sequences)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import Form, LayerFisher, require_gram, require_shape
from .registry import fisher_structure
from .sums import RunningSums

__all__ = ["KroneckerFisher"]


class _Sums(RunningSums):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._grads, self._inputs = self.zeros(shape[0], shape[0]), self.zeros(shape[1], shape[1])
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._tokens = 0

    def add(self, e: Tensor, z: Tensor) -> None:
        deltas, inputs = e.flatten(0, 1), z.flatten(0, 1)
        # Not added before the batch is complete: a full memory may end it.
        self._pending.append((deltas.T @ deltas, inputs.T @ inputs))

    def close_batch(self, size: int, tokens: int) -> Tensor:
        # A module that runs k times in a forward pass sees k times the tokens.
        self._tokens += tokens * max(1, len(self._pending))
        for grads, inputs in self._pending:
            self._grads += grads
            self._inputs += inputs
        self._pending.clear()
        return self._grads.abs().amax() + self._inputs.abs().amax()

    def forget_batch(self) -> bool:
        self._pending.clear()
        return True

    def finish(self) -> dict[str, Any]:
        grads, inputs = self._grads.cpu(), self._inputs.cpu()
        return {
            "tokens": self._tokens,
            "gradient_outer": (grads + grads.T) / 2,
            "input_outer": (inputs + inputs.T) / 2,
        }


@fisher_structure(sums=_Sums)
@dataclass(frozen=True, eq=False, kw_only=True)
class KroneckerFisher(LayerFisher):
    """F = G ⊗ A with G = Σδδᵀ / N and A = Σxxᵀ / T, δ and x the token's projections Uᵀδ_t and Vᵀx_t.

    Attributes:
        gradient_outer: Σ δ δᵀ over all tokens, (p, p), float64.
        input_outer: Σ x xᵀ over all tokens, (q, q), float64.
        tokens: T, how many tokens that are not padding the sums run over.
    """

    structure: ClassVar[str] = "kronecker"
    form: ClassVar[Form] = "kronecker"

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

    def factors(self) -> tuple[Tensor, Tensor]:
        """G and A."""
        return self.grad_factor, self.input_factor

    def output_shrunk(self, share: float) -> Self:
        """(1−γ)G + γ (tr G / p) I in place of G: linear shrinkage (Ledoit and Wolf, 2004), which keeps the trace.

        At γ = 1 only what the module reads matters, as in RegMean (arXiv:2212.09849).
        """
        if share == 0:
            return self
        outer = self.gradient_outer
        target = outer.diagonal().mean() * torch.eye(len(outer), dtype=outer.dtype)
        return replace(self, gradient_outer=(1.0 - share) * outer + share * target)

    def matvec(self, core: Tensor) -> Tensor:
        """G M A.

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
