"""Core spaces that also hold directions outside of the adapters' own, for results that leave those."""

from dataclasses import replace

import torch
from torch import Tensor

from ...core_space import CoreSpace

__all__ = ["joined", "widened"]


def joined(basis: Tensor, columns: Tensor) -> Tensor:
    """Orthonormal columns that span a basis and further columns; in float64, rounded once.

    Args:
        basis: (d, k).
        columns: (d, n), of any length: each is scaled to 1 first, so that a tiny one is not lost.

    Returns:
        (d, min(d, k + n)), on the device and in the type of the basis.
    """
    lengths = columns.double().norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    both = torch.cat([basis.double(), (columns.double() / lengths).to(basis.device)], dim=1)
    return torch.linalg.qr(both)[0].to(basis.dtype)


def widened(space: CoreSpace, rows: Tensor) -> CoreSpace:
    """A core space whose right basis also spans further rows.

    Args:
        space: U and V.
        rows: (n, d_in), or (n, d_in + 1) with a bias.

    Returns:
        The same U, and orthonormal columns that span V and the rows.
    """
    return replace(space, right=joined(space.right, rows.T))
