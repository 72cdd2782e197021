"""Pieces that several entry-wise methods share: thresholds, trimming, dropping, sign election.

Updates are taken one after the other and never stacked, so that a method needs a handful of matrices however many
adapters there are.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ..registry import Layer

__all__ = [
    "Normalization",
    "Rescaling",
    "at_least",
    "disjoint_merge",
    "drop",
    "magnitude_threshold",
    "rescaled",
    "scaled",
    "trim",
    "weighted_updates",
]

Normalization = Literal["count", "weights", "none"]
Rescaling = Literal["paper", "l1", "none"]

_BLOCK = 1 << 17


def weighted_updates(layer: Layer) -> Iterator[Tensor]:
    """wᵢ τᵢ, one at a time.

    Args:
        layer: one module.

    Yields:
        One matrix per adapter, of the patches' shape.
    """
    for patch, weight in zip(layer.patches, layer.weights, strict=True):
        yield scaled(patch, weight)


def scaled(update: Tensor, weight: float) -> Tensor:
    """w·τ, without a pass over τ where w = 1.

    Args:
        update: any shape.
        weight: factor.

    Returns:
        The product, or the update itself.
    """
    return update if weight == 1.0 else weight * update


def magnitude_threshold(values: Tensor, keep: int) -> Tensor:
    """The ``keep``-th largest magnitude, exactly, in linear time.

    On the CPU a sample brackets it and one pass takes out what lies in the bracket (:func:`_bracketed`). Elsewhere, and
    where a bracket misses, the bits of a non-negative float, read as an integer, are ordered as the float is: a
    histogram of the leading bits finds the bin of the wanted value, and only that bin is searched.

    Args:
        values: any shape, float32 or float64.
        keep: 1 … number of values.

    Returns:
        A scalar t with |{v: |v| ≥ t}| ≥ keep > |{v: |v| > t}|.
    """
    if values.device.type == "cpu" and (found := _bracketed(values.reshape(-1), keep)) is not None:
        return values.new_tensor(found)
    magnitudes = values.abs().reshape(-1)
    # 16 leading bits of float32 and 19 of float64 hold the exponent and 7 or 8 bits of the mantissa.
    kind, low, bins = (torch.int64, 45, 1 << 18) if values.dtype == torch.float64 else (torch.int32, 16, 1 << 15)
    bits = magnitudes.view(kind)
    leading = bits >> low
    at_least = torch.bincount(leading, minlength=bins).flip(0).cumsum(0)
    above = int((at_least < keep).sum())
    remaining = keep - (int(at_least[above - 1]) if above else 0)
    bin_values = bits[leading == bins - 1 - above]
    return bin_values.kthvalue(bin_values.numel() - remaining + 1).values.view(values.dtype)


def _bracketed(flat: Tensor, keep: int) -> float | None:
    """The ``keep``-th largest magnitude of a CPU vector, or None where the sample's bracket does not hold it.

    NumPy compares, counts and compresses several times as fast as PyTorch does on a CPU.
    """
    import numpy as np

    values = flat.detach().numpy()
    # An odd step is rarely a divisor of a row's length; where it is, a miss only costs time.
    sample = np.abs(values[:: max(1, values.size >> 14) | 1])
    share = keep / values.size
    slack = 4.0 * (sample.size * share * (1.0 - share)) ** 0.5 + 2.0
    wanted = (1.0 - share) * sample.size
    first, last = max(0, int(wanted - slack)), min(sample.size - 1, int(wanted + slack) + 1)
    sample.partition((first, last))
    low = sample[first] if first > 0 else sample.dtype.type(0)
    high = sample[last] if last < sample.size - 1 else sample.dtype.type(np.inf)
    space = np.empty(min(_BLOCK, values.size), values.dtype)
    masks = np.empty((2, space.size), bool)
    above, inside = 0, []
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        magnitudes = np.abs(block, out=space[: block.size])
        reached = np.greater_equal(magnitudes, low, out=masks[0, : block.size])
        beyond = np.greater(magnitudes, high, out=masks[1, : block.size])
        above += int(np.count_nonzero(beyond))
        inside.append(magnitudes[np.flatnonzero(np.logical_xor(reached, beyond, out=reached))])
    candidates = np.concatenate(inside)
    if not above < keep <= above + candidates.size:
        return None
    position = candidates.size - (keep - above)
    return float(np.partition(candidates, position)[position])


def trim(update: Tensor, density: float) -> Tensor:
    """Keep the largest entries by magnitude, set the others to 0.

    Args:
        update: any shape.
        density: share to keep; at least one entry, and all that tie with the last one, are kept.

    Returns:
        A matrix of the same shape.
    """
    if density >= 1.0:
        return update
    return at_least(update, magnitude_threshold(update, max(1, int(density * update.numel()))))


def at_least(update: Tensor, threshold: Tensor) -> Tensor:
    """The entries of at least a magnitude, 0 elsewhere.

    Args:
        update: any shape.
        threshold: scalar t ≥ 0 of the update's type.

    Returns:
        A matrix of the same shape.
    """
    # Hard shrinkage keeps |v| > λ, in one vectorised pass where a comparison and a selection take many times as long.
    below = torch.nextafter(threshold, threshold.new_tensor(-1.0))
    return torch.nn.functional.hardshrink(update, float(below))


def drop(update: Tensor, density: float | Tensor, generator: torch.Generator) -> Tensor:
    """Keep every entry with its own independent probability, without rescaling.

    Args:
        update: any shape.
        density: probability to keep; a number or one per entry.
        generator: CPU generator; drawn in float32 on the CPU, so that every device and type drops the same entries.

    Returns:
        A matrix of the same shape.
    """
    drawn = torch.rand(update.shape, generator=generator, dtype=torch.float32).to(update.device)
    kept = (drawn < density).to(update.dtype) if isinstance(density, Tensor) else drawn.lt_(density).to(update.dtype)
    return kept.mul_(update)


def rescaled(dropped: Tensor, update: Tensor, density: float | Tensor, rescale: Rescaling) -> Tensor:
    """Make up for the dropped entries.

    Args:
        dropped: the update with some entries set to 0.
        update: the whole update.
        density: probability with which entries were kept; a number or one per entry.
        rescale: ``paper`` divides by the density, which keeps every entry's expectation; ``l1`` restores the update's
            sum of magnitudes; ``none`` does nothing.

    Returns:
        A matrix of the same shape.
    """
    if rescale == "none":
        return dropped
    if rescale == "paper":
        return dropped / density
    left = dropped.abs().sum()
    return torch.where(left > 0, dropped * (update.abs().sum() / left), dropped)


def disjoint_merge(updates: Iterable[Tensor], weights: Iterable[float], *, normalize: Normalization) -> Tensor:
    """Elect a sign per entry, and combine the entries that have it (TIES, arXiv:2306.01708).

    γ = sgn(Σᵢ uᵢ), A = {i : sgn(uᵢ) = γ}, result Σ_A uᵢ / |A| per entry; 0 where the updates cancel exactly.

    Args:
        updates: wᵢ τ̂ᵢ, all of one shape, at least one.
        weights: wᵢ, only their magnitudes matter, and only for ``weights``.
        normalize: divide by the number of agreeing entries, by the sum of their |wᵢ|, or not at all.

    Returns:
        A matrix of the updates' shape.
    """
    sums: list[Tensor] = []
    shares: list[Tensor] = []
    for update, weight in zip(updates, weights, strict=True):
        first = not sums
        if first:
            sums = [torch.empty_like(update) for _ in range(2)]
            shares = [torch.empty_like(update) for _ in range(2)] if normalize != "none" else []
        share = abs(weight) if normalize == "weights" else 1.0
        for rows in _row_blocks(update):
            for side, entries in enumerate((update[rows].clamp_min(0), update[rows].clamp_max(0))):
                signed = -share if side else share
                if first:
                    sums[side][rows] = entries
                    if shares:
                        torch.mul(entries.sign_(), signed, out=shares[side][rows])
                    continue
                sums[side][rows] += entries
                if shares:
                    shares[side][rows].add_(entries.sign_(), alpha=signed)
    positive, negative = sums
    for rows in _row_blocks(positive):
        elected = (positive[rows] + negative[rows]).sign_()
        positive[rows] *= elected.clamp_min(0)
        negative[rows] *= elected.clamp_max(0).neg_()
        if not shares:
            positive[rows] += negative[rows]
            continue
        # Sides without a vote are 0 and stay 0: 0 / 0 would not.
        for share in shares:
            share[rows].clamp_min_(torch.finfo(share.dtype).tiny)
        positive[rows] /= shares[0][rows]
        positive[rows].addcdiv_(negative[rows], shares[1][rows])
    return positive


def _row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Rows in blocks of half a megabyte of float32: temporaries stay in the processor's cache."""
    step = max(1, _BLOCK // max(1, matrix[0].numel()))
    for start in range(0, matrix.shape[0], step):
        yield slice(start, start + step)
