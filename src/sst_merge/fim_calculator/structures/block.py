"""The exact empirical Fisher of one layer, every correlation inside the layer kept."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import FisherError
from .base import Form, LayerFisher, require_gram, require_shape
from .registry import fisher_structure
from .sums import SampleSums

__all__ = ["BlockFisher"]


_FLUSH_ROWS = 64
"""Gradients gathered before one rank-k update of a (pq, pq) matrix: k = 1 would be bound by memory traffic."""


class _Sums(SampleSums):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        size = shape[0] * shape[1]
        self._outer = self.zeros(size, size)
        self._rows: list[Tensor] = []

    def consume(self, gradients: Tensor) -> None:
        self._rows.append(gradients.flatten(1))
        if sum(len(rows) for rows in self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            rows = torch.cat(self._rows).to(torch.float64)
            self._outer.addmm_(rows.T, rows)
            self._rows.clear()

    def finish(self) -> dict[str, Any]:
        self._flush()
        outer = self._outer.cpu()
        # A blocked matrix product may differ in the last bit across the diagonal.
        return {"outer": (outer + outer.T) / 2, "core_shape": self.shape}


@fisher_structure(sums=_Sums)
@dataclass(frozen=True, eq=False, kw_only=True)
class BlockFisher(LayerFisher):
    """F = Σ vec(g) vec(g)ᵀ / N.

    Attributes:
        outer: Σ vec(g) vec(g)ᵀ over samples, (pq, pq), float64.
        core_shape: (p, q), which the matrix alone does not tell.
    """

    structure: ClassVar[str] = "block"
    form: ClassVar[Form] = "dense"

    outer: Tensor
    core_shape: tuple[int, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_gram("outer", self.outer)
        if self.outer.shape[0] != self.core_shape[0] * self.core_shape[1]:
            raise FisherError(
                f"block Fisher of shape {tuple(self.outer.shape)} does not act on cores {self.core_shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.core_shape

    def matvec(self, core: Tensor) -> Tensor:
        """F vec(M).

        Args:
            core: M, (..., p, q).

        Returns:
            (..., p, q), float64.

        Raises:
            FisherError: another shape.
        """
        flat = require_shape(core, self.shape).flatten(-2)
        return (flat @ self.outer * (self.weight / self.samples)).reshape(core.shape)

    def dense(self) -> Tensor:
        """(pq, pq)."""
        return self.outer * (self.weight / self.samples)

    def diagonal(self) -> Tensor:
        """(p, q)."""
        return (self.outer.diagonal() * (self.weight / self.samples)).reshape(self.shape)
