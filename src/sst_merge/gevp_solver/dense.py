"""Dense generalised eigenproblem of two symmetric matrices, in float64 (LAPACK through SciPy)."""

import numpy as np
import torch
from torch import Tensor

from ..errors import FisherError

__all__ = ["checked_symmetric", "damped", "generalized_eigh"]


def checked_symmetric(matrix: Tensor, name: str) -> Tensor:
    """A finite, symmetric float64 copy on the CPU, (n, n); the name is for messages.

    Raises:
        FisherError: not square, not finite, or not symmetric to 1e-8 of its largest entry.
    """
    matrix = matrix.detach().to("cpu", torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise FisherError(f"{name} must be a square matrix, found shape {tuple(matrix.shape)}")
    if not bool(torch.isfinite(matrix).all()):
        raise FisherError(f"{name} holds NaN or Inf; check the losses and the model's precision")
    asymmetry = float((matrix - matrix.T).abs().max()) if matrix.numel() else 0.0
    if asymmetry > 1e-8 * max(float(matrix.abs().max()), torch.finfo(torch.float64).tiny):
        raise FisherError(f"{name} is not symmetric: |F - Fᵀ| reaches {asymmetry:.3g}; a Fisher matrix always is")
    return 0.5 * (matrix + matrix.T)


def damped(matrix: Tensor, damping: float) -> Tensor:
    """F + ρ·mean(diag F)·I: damping relative to the matrix's own scale, never an absolute constant."""
    if damping == 0:
        return matrix
    return matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def generalized_eigh(f_harm: Tensor, f_benign: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """F_h v = λ F_b v with F_b positive definite.

    Args:
        f_harm: (n, n), symmetric.
        f_benign: (n, n), symmetric positive definite (damp it first).
        k: how many of the largest; all by default.

    Returns:
        λ (k,) descending, and V (n, k) with VᵀF_bV = I.

    Raises:
        FisherError: F_b is not positive definite.
    """
    from scipy.linalg import LinAlgError, eigh

    n = len(f_harm)
    subset = None if k is None or k >= n else (n - k, n - 1)
    try:
        values, vectors = eigh(f_harm.numpy(), f_benign.numpy(), subset_by_index=subset)
    except LinAlgError as error:
        raise FisherError(
            f"F_benign ({n} × {n}) is not positive definite ({error}); raise the damping, or collect more benign "
            "samples"
        ) from error
    order = np.argsort(values)[::-1].copy()
    return torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order])
