"""Pieces that several spectral methods share: singular values that are not noise, polar factors, aligned cores.

All of it commutes with rotations of either side, so working on core matrices is exact: with ΔW = U M Vᵀ and
M = P S Qᵀ, the SVD of ΔW is (UP) S (VQ)ᵀ.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...core_space import align_bases

__all__ = ["aligned_cores", "polar", "significant_svd"]


def significant_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD without the numerically null part.

    Methods that raise small singular values must not raise rounding noise, so the cut is higher than the usual
    max(p, q)·ε of small matrices: noise comes from the adapters' long sides, not from the core's.

    Args:
        matrix: (p, q).

    Returns:
        P (p, k), S (k,) descending, Qᵀ (k, q); k = 0 for a zero matrix.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    floor = values[0] * max(100, *matrix.shape) * torch.finfo(values.dtype).eps
    kept = int((values > floor).sum())
    return left[:, :kept], values[:kept], right[:kept]


def polar(matrix: Tensor) -> Tensor:
    """The nearest (partial) isometry P Qᵀ of the SVD P S Qᵀ (p, k); orthonormal columns where the rank is full."""
    left, _, right = significant_svd(matrix)
    return left @ right


def aligned_cores(updates: Iterable[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rotate core matrices onto the joint principal directions of both sides.

    The bases of a core depend on how every adapter factors its ΔW; the principal directions do not, up to sign (and
    up to rotations among equal singular values), and a sign flips the same entries of every update.

    Args:
        updates: T of (p, q).

    Returns:
        T rotated cores (p', q'), and the rotations L (p, p'), R (q, q') with update = L core Rᵀ.
    """
    cores = list(updates)
    like = cores[0]
    left, right = (torch.eye(n, dtype=like.dtype, device=like.device) for n in like.shape)
    left, right = align_bases(left, right, cores)
    return [left.T @ core @ right for core in cores], left, right
