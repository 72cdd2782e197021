"""The nearest B·A to a dense ΔW, and exactly what it leaves out.

B holds orthonormal columns U and A = Uᵀ ΔW, so that B·A is a projection and ‖ΔW − B·A‖² = ‖ΔW‖² − ‖A‖²: the loss is
measured, not estimated, whichever way U was found. U is looked for in the image of a few random vectors first
(Halko, Martinsson and Tropp, arXiv:0909.4061, with two power iterations), which suffices where ΔW is nearly of low rank
and is many times cheaper than all singular vectors; otherwise it is exact (Eckart and Young).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Nearest", "nearest"]

_FIRST_SKETCH = 64
_LARGEST_SKETCH = 1 / 6  # of the smaller side; beyond it all singular vectors cost no more
_OVERSAMPLING = 8
_BLOCK = 1024  # columns in float64 at once


@dataclass(frozen=True)
class Nearest:
    """The outcome.

    Attributes:
        b: (m, k), orthonormal columns.
        a: (k, n).
        energy: ‖ΔW‖²_F.
        lost: share of it that B·A leaves out, from 0 to 1.
    """

    b: Tensor
    a: Tensor
    energy: float
    lost: float


def nearest(delta: Tensor, *, rank: int | None, most_lost: float, least: int = 1) -> Nearest:
    """Approximate a matrix by two factors.

    Args:
        delta: ΔW (m, n), finite, float32 or float64.
        rank: keep so many directions, or fewer where ΔW has fewer. None: the fewest that lose at most ``most_lost``.
        most_lost: share of ‖ΔW‖²_F, from 0 to 1.
        least: keep no fewer where they hold more than rounding; for a ΔW that has a known small rank for its greater
            part.

    Returns:
        Factors of rank ≥ 1 in ΔW's type, and their loss, which may be above ``most_lost`` where a rank is given.
    """
    side = min(delta.shape)
    energy = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
    if energy == 0.0:
        return Nearest(delta.new_zeros(delta.shape[0], 1), delta.new_zeros(1, delta.shape[1]), 0.0, 0.0)
    width = max(_FIRST_SKETCH, least + _OVERSAMPLING, 0 if rank is None else rank + _OVERSAMPLING)
    while width <= side * _LARGEST_SKETCH:
        basis = _image(delta, width)
        inner = _projected(basis, delta)
        found = _cut(basis @ _leading(inner @ inner.T), delta, energy, rank, most_lost, least)
        # A rank that was asked for is only cut by the exact way where the quick one would break the limit.
        if found.lost <= most_lost and found.b.shape[1] <= width - _OVERSAMPLING:
            return found
        width *= 2
    return _cut(_leading(_gram(delta)), delta, energy, rank, most_lost, least)


def _cut(vectors: Tensor, delta: Tensor, energy: float, rank: int | None, most_lost: float, least: int) -> Nearest:
    """The first of some orthonormal vectors, in descending order of what they hold."""
    images = _projected(vectors, delta)
    squares = images.square().sum(1)
    left_out = (energy - squares.cumsum(0)).clamp_min(0.0) / energy
    floor = (max(delta.shape) * torch.finfo(delta.dtype).eps) ** 2 * float(squares[0])
    above_rounding = int((squares > floor).sum())
    needed = int((left_out > most_lost).sum()) + 1 if rank is None else rank
    kept = max(1, min(max(needed, least if rank is None else 1), above_rounding, len(squares)))
    b, a = vectors[:, :kept].to(delta), images[:kept].to(delta)
    return Nearest(b.contiguous(), a.contiguous(), energy, float(left_out[kept - 1]))


def _image(delta: Tensor, width: int) -> Tensor:
    """Orthonormal basis (m, width) near the leading left singular vectors; the same for equal matrices."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(delta.shape[1], width, generator=generator, dtype=torch.float64).to(delta)
    basis = torch.linalg.qr(delta @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(delta @ torch.linalg.qr(delta.T @ basis).Q).Q
    return torch.linalg.qr(basis.double()).Q


def _leading(gram: Tensor) -> Tensor:
    """Eigenvectors of a Gram matrix, the largest eigenvalue first."""
    return torch.linalg.eigh(gram).eigenvectors.flip(1)


def _gram(delta: Tensor) -> Tensor:
    """ΔW ΔWᵀ in float64."""
    gram = delta.new_zeros(delta.shape[0], delta.shape[0], dtype=torch.float64)
    for block in torch.split(delta, _BLOCK, dim=1):
        wide = block.double()
        gram.addmm_(wide, wide.T)
    return gram


def _projected(basis: Tensor, delta: Tensor) -> Tensor:
    """Uᵀ ΔW in float64."""
    wide = basis.double()
    return torch.cat([wide.T @ block.double() for block in torch.split(delta, _BLOCK, dim=1)], dim=1)
