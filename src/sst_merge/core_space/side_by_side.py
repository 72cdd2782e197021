"""A weighted sum of updates without any decomposition: its factors are theirs, side by side.

    Σᵢ cᵢ Bᵢ Aᵢ = [c₁B₁ … c_TB_T] [A₁; …; A_T]

Nothing is rounded but the products cᵢBᵢ, and the time is that of copying. The rank is the sum of the ranks, not the
smallest possible one; only updates that share their A, such as one adapter given twice, share columns too.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..lora_utils import LoraFactors
from .space import common_layout

__all__ = ["side_by_side"]


def side_by_side(factors: Sequence[LoraFactors | None], coefficients: Sequence[float]) -> tuple[LoraFactors, float]:
    """Factors of Σᵢ cᵢ ΔWᵢ.

    Columns that add nothing are left out. What is left is balanced by powers of two, which rounds nothing: a column of
    B and its row of A get about the same norm, so that both stay in the range of 16-bit types.

    Args:
        factors: updates of one module, in one type and on one device; None where an adapter does not touch it.
        coefficients: cᵢ, one each.

    Returns:
        The sum (rank ≥ 1, so that it can be stored), and its Frobenius norm, to about a millionth of its largest part.

    Raises:
        MergeError: no factors, or factors of different layouts.

    Example:
        >>> import torch
        >>> from sst_merge import LoraFactors
        >>> one = LoraFactors(torch.randn(8, 2), torch.randn(2, 6))
        >>> two = LoraFactors(torch.randn(8, 3), torch.randn(3, 6))
        >>> total, norm = side_by_side([one, two, None, one], [1.0, -0.5, 1.0, 2.0])
        >>> total.rank
        5
        >>> torch.allclose(total.delta(), 3 * one.delta() - 0.5 * two.delta(), atol=1e-5)
        True
    """
    there = [(f, c) for f, c in zip(factors, coefficients, strict=True) if f is not None]
    kind, bias = common_layout([f for f, _ in there])
    blocks: list[tuple[Tensor, Tensor]] = []
    for update, coefficient in there:
        b = update.b if coefficient == 1.0 else coefficient * update.b
        shared = next((i for i, (_, a) in enumerate(blocks) if _same(a, update.a)), None)
        if shared is None:
            blocks.append((b, update.a))
        else:
            blocks[shared] = (blocks[shared][0] + b, update.a)
    total = LoraFactors(torch.cat([b for b, _ in blocks], dim=1), torch.cat([a for _, a in blocks], dim=0), kind, bias)
    norms_b, norms_a = total.direction_norms()
    used = (norms_b > 0) & (norms_a > 0)
    if not bool(used.any()):
        return LoraFactors(total.b[:, :1], total.a[:1], kind, bias), 0.0
    b, a = (total.b, total.a) if bool(used.all()) else (total.b[:, used], total.a[used])
    ratios = (norms_a[used] / norms_b[used]).tolist()
    powers = b.new_tensor([2.0 ** round(math.log2(ratio) / 2) for ratio in ratios])
    b, a = b * powers, a / powers[:, None]
    squares = ((b.T @ b) * (a @ a.T)).sum(dtype=torch.float64)
    return LoraFactors(b, a, kind, bias), float(squares.clamp_min(0)) ** 0.5


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two A are equal; a row alone tells nearly all others apart."""
    return one.shape == other.shape and torch.equal(one[:1], other[:1]) and torch.equal(one, other)
