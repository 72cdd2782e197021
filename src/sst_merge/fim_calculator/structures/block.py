"""The exact empirical Fisher of one layer, every correlation inside the layer kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .base import LayerFisher, require_gram, require_shape

__all__ = ["BlockFisher"]


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockFisher(LayerFisher):
    """F = Σ vec(g) vec(g)ᵀ / N.

    Attributes:
        outer: Σ vec(g) vec(g)ᵀ over samples, (pq, pq), float64.
        core_shape: (p, q), which the matrix alone does not tell.
    """

    structure: ClassVar[str] = "block"

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

    def tensors(self) -> dict[str, Tensor]:
        """The sum of outer products."""
        return {"outer": self.outer}

    def counts(self) -> dict[str, int]:
        """N, p and q."""
        return {"samples": self.samples, "p": self.core_shape[0], "q": self.core_shape[1]}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], counts: Mapping[str, int], weight: float) -> Self:
        """Rebuild from what is stored.

        Args:
            tensors: the sum of outer products.
            counts: N, p and q.
            weight: as in the attribute.

        Raises:
            FisherError: the numbers are not sums of outer products.
        """
        return cls(
            samples=counts["samples"], weight=weight, core_shape=(counts["p"], counts["q"]), outer=tensors["outer"]
        )

    def _plus(self, other: Self) -> Self:
        return type(self)(
            samples=self.samples + other.samples,
            weight=self.weight,
            outer=self.outer + other.outer,
            core_shape=self.core_shape,
        )
