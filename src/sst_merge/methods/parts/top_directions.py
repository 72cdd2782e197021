"""The directions of one module in which a single Fisher is largest, and the projector onto them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...fim_calculator import KroneckerFisher, LayerFisher

__all__ = ["TopDirections"]


@dataclass(frozen=True)
class TopDirections:
    """P of one module: the span of the top eigenvectors of a Fisher.

    Attributes:
        left: eigenvectors of the output side, (p, a); for a block Fisher those that span P, (pq, n).
        right: eigenvectors of the input side, (q, b), or None for a block Fisher.
        mask: which products of them span P, (a, b); for a block Fisher all of them, (n,).
    """

    left: Tensor
    right: Tensor | None
    mask: Tensor

    @classmethod
    def of(cls, fisher: LayerFisher, *, m: int | None, share: float) -> "TopDirections":
        """The m top eigenvectors of a layer's Fisher; without m the fewest that hold a share of its trace."""
        if isinstance(fisher, KroneckerFisher):
            left_values, left = torch.linalg.eigh(fisher.grad_factor)
            right_values, right = torch.linalg.eigh(fisher.input_factor)
            values = torch.outer(left_values.clamp_min(0.0), right_values.clamp_min(0.0))
            return cls(left, right, _top(values.flatten(), m, share).reshape(values.shape))
        values, vectors = torch.linalg.eigh(fisher.dense())
        mask = _top(values.clamp_min(0.0), m, share)
        return cls(vectors[:, mask], None, mask[mask])

    @property
    def count(self) -> int:
        """How many eigenvectors span P."""
        return int(self.mask.sum())

    def project(self, core: Tensor) -> Tensor:
        """P M, (p, q), in float64 on the CPU as M is."""
        if self.right is not None:
            return self.left @ (self.mask * (self.left.T @ core @ self.right)) @ self.right.T
        return (self.left @ (self.left.T @ core.reshape(-1))).reshape(core.shape)


def _top(values: Tensor, m: int | None, share: float) -> Tensor:
    """The m largest, or the fewest that hold a share of the sum; none where all are 0."""
    ordered, order = torch.sort(values, descending=True, stable=True)
    total = ordered.sum()
    if m is None:
        m = int((ordered.cumsum(0) < (share - 1e-12) * total).sum()) + 1 if share > 0 else 0
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[order[: min(m, int((ordered > 0).sum()))]] = True
    return chosen
