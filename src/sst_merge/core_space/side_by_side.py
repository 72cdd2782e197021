"""A weighted sum of updates without any decomposition: its factors are theirs, side by side.

    Σᵢ cᵢ Bᵢ Aᵢ = [c₁B₁ … c_TB_T] [A₁; …; A_T]

Nothing is rounded but the products cᵢBᵢ, and the time is that of copying. The rank is the sum of the ranks, not the
smallest possible one; only updates that share their A, such as one adapter given twice, share columns too.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..lora_utils import LoraFactors
from .space import common_layout

__all__ = ["side_by_side"]

_BLOCK = 64


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
    parts: list[tuple[LoraFactors, float]] = []
    for update, coefficient in there:
        shared = next((i for i, (of, _) in enumerate(parts) if _same(of.a, update.a)), None)
        if shared is None:
            parts.append((update, coefficient))
        else:
            of, its = parts[shared]
            parts[shared] = (replace(of, b=its * of.b + coefficient * update.b), 1.0)
    norms_b = torch.cat([abs(c) * f.direction_norms[0] for f, c in parts])
    norms_a = torch.cat([f.direction_norms[1] for f, _ in parts])
    used = (norms_b > 0) & (norms_a > 0)
    if not bool(used.any()):
        first = parts[0][0]
        return LoraFactors(torch.zeros_like(first.b[:, :1]), first.a[:1], kind, bias), 0.0
    # Of directions that add nothing the ratio is not asked for.
    ratios = torch.where(used, norms_a, 1.0) / torch.where(used, norms_b, 1.0)
    powers = (ratios.log2() / 2).round().exp2()
    b, a = _scaled(parts, powers)
    if not bool(used.all()):
        b, a = b[:, used], a[used]
    return LoraFactors(b, a, kind, bias), _norm(b, a)


def _scaled(parts: Sequence[tuple[LoraFactors, float]], powers: Tensor) -> tuple[Tensor, Tensor]:
    """[… cᵢBᵢPᵢ …] and [… Pᵢ⁻¹Aᵢ …], each entry written once."""
    first = parts[0][0]
    b = first.b.new_empty(first.b.shape[0], len(powers))
    a = first.a.new_empty(len(powers), first.a.shape[1])
    began = 0
    for update, coefficient in parts:
        here = slice(began, began := began + update.rank)
        power = powers[here].to(first.b)
        torch.mul(update.b, coefficient * power, out=b[:, here])
        torch.div(update.a, power[:, None], out=a[here])
    return b, a


def _norm(b: Tensor, a: Tensor) -> float:
    """‖BA‖_F by (BᵀB) ∘ (AAᵀ), of whose equal halves the lower one is left out, block by block."""
    total = 0.0
    for begin in range(0, b.shape[1], _BLOCK):
        rest = slice(begin, None)
        products = (b[:, begin : begin + _BLOCK].T @ b[:, rest]) * (a[begin : begin + _BLOCK] @ a[rest].T)
        products[:, _BLOCK:] *= 2
        total += float(products.sum(dtype=torch.float64))
    return max(total, 0.0) ** 0.5


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two A are equal; a row alone tells nearly all others apart."""
    return one.shape == other.shape and torch.equal(one[:1], other[:1]) and torch.equal(one, other)
