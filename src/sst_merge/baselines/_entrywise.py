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
    "disjoint_merge",
    "drop",
    "magnitude_threshold",
    "rescaled",
    "trim",
    "weighted_updates",
]

Normalization = Literal["count", "weights", "none"]
Rescaling = Literal["paper", "l1", "none"]


def weighted_updates(layer: Layer) -> Iterator[Tensor]:
    """wᵢ τᵢ, one at a time.

    Args:
        layer: one module.

    Yields:
        One matrix per adapter, of the patches' shape.
    """
    for patch, weight in zip(layer.patches, layer.weights, strict=True):
        yield weight * patch


def magnitude_threshold(values: Tensor, keep: int) -> Tensor:
    """The ``keep``-th largest magnitude, exactly, in two linear passes.

    The bits of a non-negative float, read as an integer, are ordered as the float is: a histogram of the leading
    bits finds the bin of the wanted value, and only that bin is searched.

    Args:
        values: any shape, float32 or float64.
        keep: 1 … number of values.

    Returns:
        A scalar t with |{v: |v| ≥ t}| ≥ keep > |{v: |v| > t}|.
    """
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
    threshold = magnitude_threshold(update, max(1, int(density * update.numel())))
    return torch.where(update.abs() >= threshold, update, 0.0)


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
    return torch.where(drawn < density, update, 0.0)


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
        if not sums:
            sums = [torch.zeros_like(update) for _ in range(2)]
            shares = [torch.zeros_like(update) for _ in range(2)] if normalize != "none" else []
        share = abs(weight) if normalize == "weights" else 1.0
        for rows in _row_blocks(update):
            entries = update[rows]
            sums[0][rows] += entries.clamp_min(0)
            sums[1][rows] += entries.clamp_max(0)
            if shares:
                # A number times a mask would be float32, whatever the update is.
                shares[0][rows].add_((entries > 0).to(entries.dtype), alpha=share)
                shares[1][rows].add_((entries < 0).to(entries.dtype), alpha=share)
    positive, negative = sums
    for rows in _row_blocks(positive):
        elected = positive[rows] + negative[rows]
        if shares:
            positive[rows] /= shares[0][rows]
            negative[rows] /= shares[1][rows]
        positive[rows] = torch.where(elected > 0, positive[rows], torch.where(elected < 0, negative[rows], 0.0))
    return positive


def _row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Rows in blocks of about a megabyte: the allocator reuses temporaries of that size and maps larger ones anew."""
    step = max(1, (1 << 18) // max(1, matrix[0].numel()))
    for start in range(0, matrix.shape[0], step):
        yield slice(start, start + step)
