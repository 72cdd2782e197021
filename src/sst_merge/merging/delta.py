"""ΔW of one layer at a time, for methods that are defined on its entries, and back to factors."""

import torch
from torch import Tensor

from ..core_space import Truncation
from ..errors import MergeError
from ..lora_utils import LoraFactors, ModuleKind

__all__ = ["compress_delta", "full_delta"]


def full_delta(factors: LoraFactors) -> Tensor:
    """ΔW with its bias column, if it has one.

    Args:
        factors: an update.

    Returns:
        (d_out, d_in), or (d_out, d_in + 1) with a bias.
    """
    return factors.b @ factors.a


def compress_delta(
    delta: Tensor, *, kind: ModuleKind, bias: bool, rank: int | None = None, energy: float | None = None
) -> tuple[LoraFactors, Truncation]:
    """Factors of a ΔW by a thin SVD: B = P √S, A = √S Qᵀ.

    Args:
        delta: (d_out, d_in), or (d_out, d_in + 1) with a bias.
        kind: how the base stores the weight.
        bias: whether the last column belongs to the layer's bias.
        rank: keep at most this many singular values; all that are not numerically 0 by default.
        energy: keep the fewest singular values that hold this share of ‖ΔW‖²_F.

    Returns:
        The update (rank ≥ 1) and what the cut cost.

    Raises:
        MergeError: NaN or Inf in the matrix.
    """
    if not bool(torch.isfinite(delta).all()):
        raise MergeError("merged ΔW holds NaN or Inf; check the adapters and the method's options")
    vectors, values, covectors = torch.linalg.svd(delta, full_matrices=False)
    squares = values.double().square()
    kept = int((values > values[0] * max(delta.shape) * torch.finfo(values.dtype).eps).sum())
    if energy is not None and kept:
        short = squares.cumsum(0) < (energy - 1e-12) * squares.sum()
        kept = min(kept, int(short.sum()) + 1)
    kept = max(1, kept if rank is None else min(kept, rank))
    total = float(squares.sum())
    root = values[:kept].sqrt()
    factors = LoraFactors(vectors[:, :kept] * root, root[:, None] * covectors[:kept], kind, bias)
    return factors, Truncation(kept, float(squares[:kept].sum()) / total if total > 0 else 1.0, values)
