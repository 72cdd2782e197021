"""Core spaces that also hold directions outside of the adapters' own, for results that leave those."""

from dataclasses import replace

import torch
from torch import Tensor

from ...core_space import CoreSpace

__all__ = ["joined", "widened"]

_ROUNDING = 1e-6
"""Of its length, what a column must have outside of those before it."""


def joined(basis: Tensor, columns: Tensor) -> Tensor:
    """Orthonormal columns that span a basis and further columns; in float64, rounded once.

    Args:
        basis: (d, k).
        columns: (d, n), of any length: each is scaled to 1 first, so that a tiny one is not lost. One that the others
            span already would only add the direction of its rounding, and is left out.

    Returns:
        (d, k + n) or fewer columns, on the device and in the type of the basis.
    """
    lengths = columns.double().norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    both = torch.cat([basis.double(), (columns.double() / lengths).to(basis.device)], dim=1)
    spanning, upper = torch.linalg.qr(both)
    new = upper.diagonal().abs() > _ROUNDING
    new[: basis.shape[1]] = True
    return spanning[:, new].to(basis.dtype)


def widened(space: CoreSpace, rows: Tensor) -> CoreSpace:
    """A core space with the same U and a V that also spans further rows, (n, d_in) or, with a bias, (n, d_in + 1)."""
    return replace(space, right=joined(space.right, rows.T))
