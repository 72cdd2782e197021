"""Orthonormal bases of the spans of several low-rank updates (design, section 2).

With U over span[B₁…B_T] and V over span[A₁ᵀ…A_Tᵀ], every ΔW_i of the merge is U M_i Vᵀ exactly
(Core Space Merging, arXiv:2509.17786). All of it is thin QR and small SVDs; no d_out × d_in matrix appears.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lora_utils import LoraFactors

__all__ = ["align_bases", "shared_bases"]


def shared_bases(factors: Sequence[LoraFactors]) -> tuple[Tensor, Tensor]:
    """Orthonormal U and V whose spans contain every update.

    Rank-deficient stacks get a few columns more than their rank: harmless, because coordinates there are 0.

    Args:
        factors: the updates of one module, same shape, type and device.

    Returns:
        U (d_out, p) and V (d_in, q), p ≤ min(d_out, Σr), q ≤ min(d_in, Σr).
    """
    left, _ = torch.linalg.qr(torch.cat([f.b for f in factors], dim=1))
    right, _ = torch.linalg.qr(torch.cat([f.a for f in factors], dim=0).T)
    return left, right


def align_bases(left: Tensor, right: Tensor, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rotate both bases onto the principal directions of the updates, and drop directions that none uses.

    QR bases depend on how each adapter factors its ΔW; these do not (up to sign), which is what makes
    basis-dependent statistics such as a diagonal Fisher independent of the LoRA factorisation.

    Args:
        left: U, (d_out, p).
        right: V, (d_in, q).
        cores: every update's coordinates in U, V: T of (p, q).

    Returns:
        U' (d_out, p') and V' (d_in, q') with p' ≤ p, q' ≤ q, ordered by falling singular value.
    """
    return left @ _principal(torch.cat(list(cores), dim=1)), right @ _principal(torch.cat([m.T for m in cores], dim=1))


def _principal(stacked: Tensor) -> Tensor:
    """Left singular vectors of a wide (p, n) matrix, without the numerically null ones (at least one is kept)."""
    # QR first: the SVD then works on p × p however many adapters there are.
    triangular = torch.linalg.qr(stacked.T, mode="r").R.T if stacked.shape[1] > stacked.shape[0] else stacked
    vectors, values, _ = torch.linalg.svd(triangular, full_matrices=False)
    floor = values[0] * max(stacked.shape) * torch.finfo(values.dtype).eps
    return vectors[:, : max(1, int((values > floor).sum()))]
