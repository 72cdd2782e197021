"""Singular values of one low-rank update, and what is read off them: ranks, effective rank, energy.

The SVD of ΔW = B·A comes from two thin QRs and one SVD of r × r: exact, and the same however ΔW is factored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora_utils import LoraFactors

__all__ = ["ThinSVD", "effective_rank", "numerical_rank", "rank_for_energy", "thin_svd"]


@dataclass(frozen=True)
class ThinSVD:
    """ΔW = P S Qᵀ without the numerically null part.

    Attributes:
        left: P, (d_out, k), orthonormal columns: the space of outputs that ΔW writes to.
        values: S, (k,), descending, all above 0; k = 0 for ΔW = 0.
        right: Q, (d_in, k) or (d_in + 1, k) with a bias column: the space of inputs that ΔW reads.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def thin_svd(factors: LoraFactors) -> ThinSVD:
    """The SVD of an update from its factors, its bias column included.

    Args:
        factors: one module's update; float64 for figures that are to be exact.

    Returns:
        Singular vectors and values above rounding (:func:`numerical_rank`).
    """
    left, b = torch.linalg.qr(factors.b)
    right, a = torch.linalg.qr(factors.a.T)
    vectors, values, covectors = torch.linalg.svd(b @ a.T, full_matrices=False)
    # Rounding noise comes from the factors' long sides, not from the small matrix.
    kept = numerical_rank(values, max(100, *b.shape, *a.shape))
    return ThinSVD(left @ vectors[:, :kept], values[:kept], right @ covectors[:kept].T)


def numerical_rank(values: Tensor, size: int, *, scale: float | None = None) -> int:
    """How many singular values are above rounding, σ > scale·size·ε.

    Args:
        values: descending.
        size: larger side of the matrix that they belong to.
        scale: size of what the matrix was computed from; σ₁ by default. A sum that cancels needs it, or its rounding
            noise counts as full rank.

    Returns:
        0 for a zero matrix.
    """
    if values.numel() == 0:
        return 0
    floor = (values[0] if scale is None else scale) * size * torch.finfo(values.dtype).eps
    return int((values > floor).sum())


def rank_for_energy(values: Tensor, energy: float) -> int:
    """The fewest singular values that hold a share of ‖M‖²_F.

    Args:
        values: descending.
        energy: share, above 0 and at most 1.

    Returns:
        At least 1 and at most the number of values.
    """
    share = values.square().cumsum(0) / values.square().sum().clamp_min(torch.finfo(values.dtype).tiny)
    # A rounding slack, or energy=1.0 would never be reached by a float cumulative sum.
    return max(1, min(values.numel(), int((share < energy - 1e-12).sum()) + 1))


def effective_rank(values: Tensor) -> float:
    """exp(H(σ/Σσ)) with the Shannon entropy H: 1 to the rank (Roy and Vetterli, EUSIPCO 2007); 0 of zeros."""
    total = values.sum()
    if total <= 0:
        return 0.0
    return float(torch.exp(torch.special.entr(values / total).sum()))
