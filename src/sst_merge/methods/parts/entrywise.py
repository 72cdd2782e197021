"""Pieces that several entry-wise methods share: thresholds, trimming, dropping, sign election.

Updates are taken one after the other and never stacked, and where a rule allows it they are formed in blocks of rows
only, so that a method needs a handful of matrices, or of blocks, however many adapters there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import Layer

__all__ = [
    "Normalization",
    "Rescaling",
    "at_least",
    "by_rows",
    "disjoint_merge",
    "drop",
    "magnitude_threshold",
    "rescaled",
    "row_blocks",
    "scaled",
    "sum_of",
    "trim",
    "trimmed_rows",
    "update_thresholds",
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


def sum_of(updates: Iterable[Tensor]) -> Tensor:
    """Σᵢ uᵢ, one update after the other.

    Args:
        updates: of one shape, at least one; none of them is changed.

    Returns:
        A matrix of the updates' shape.
    """
    parts = iter(updates)
    total = next(parts).clone()
    for update in parts:
        total += update
    return total


def magnitude_threshold(values: Tensor, keep: int) -> Tensor:
    """The ``keep``-th largest magnitude, exactly, in linear time.

    Args:
        values: any shape, float32 or float64.
        keep: 1 … number of values.

    Returns:
        A scalar t with |{v: |v| ≥ t}| ≥ keep > |{v: |v| > t}|.
    """
    flat = values.reshape(-1)
    if flat.device.type == "cpu":
        sample, blocks = flat[_sample_positions(flat.numel())], (flat[r] for r in _blocks(flat.numel(), _BLOCK))
        if (found := _bracketed(sample, blocks, flat.numel(), keep)) is not None:
            return found
    return _histogram(flat, keep)


def update_thresholds(layer: Layer, keeps: Sequence[int]) -> list[Tensor]:
    """The ``keep``-th largest magnitude of every update, from blocks of rows: no ΔW is formed whole.

    Args:
        layer: one module.
        keeps: one per update, 1 … number of entries.

    Returns:
        Scalars as :func:`magnitude_threshold` gives them.
    """
    d_out, d_in = layer.shape
    positions = _sample_positions(d_out * d_in)
    found: list[Tensor] = []
    for index, keep in enumerate(keeps):
        sample = layer.entries(index, positions)
        threshold = None
        if sample.device.type == "cpu":
            blocks = (layer.rows(index, rows).reshape(-1) for rows in row_blocks(layer.shape))
            threshold = _bracketed(sample, blocks, d_out * d_in, keep)
        found.append(_histogram(layer.patches[index].reshape(-1), keep) if threshold is None else threshold)
    return found


def _sample_positions(size: int) -> Tensor:
    # An odd step is rarely a divisor of a row's length; where it is, a bracket may miss, and that only costs time.
    return torch.arange(0, size, max(1, size >> 13) | 1)


def _bracketed(sample: Tensor, blocks: Iterable[Tensor], size: int, keep: int) -> Tensor | None:
    """The ``keep``-th largest magnitude of a CPU vector that comes in blocks, or None where the bracket misses it.

    A sample brackets it and one pass takes out what lies in the bracket. NumPy compares, counts and selects several
    times as fast as PyTorch does on a CPU.
    """
    import numpy as np

    known = np.abs(sample.numpy())
    share = keep / size
    slack = 4.0 * (known.size * share * (1.0 - share)) ** 0.5 + 2.0
    wanted = (1.0 - share) * known.size
    first, last = max(0, int(wanted - slack)), min(known.size - 1, int(wanted + slack) + 1)
    known.partition((first, last))
    low = known[first] if first > 0 else known.dtype.type(0)
    high = known[last] if last < known.size - 1 else known.dtype.type(np.inf)
    above, inside = 0, []
    for block in blocks:
        magnitudes = np.abs(block.numpy())
        beyond = magnitudes > high
        above += int(np.count_nonzero(beyond))
        inside.append(magnitudes[np.flatnonzero(np.logical_xor(magnitudes >= low, beyond, out=beyond))])
    candidates = np.concatenate(inside)
    if not above < keep <= above + candidates.size:
        return None
    position = candidates.size - (keep - above)
    candidates.partition(position)
    return sample.new_tensor(candidates[position])


def _histogram(flat: Tensor, keep: int) -> Tensor:
    """The ``keep``-th largest magnitude in two passes on any device.

    The bits of a non-negative float, read as an integer, are ordered as the float is: a histogram of the leading bits
    finds the bin of the wanted value, and only that bin is searched.
    """
    magnitudes = flat.abs()
    # 16 leading bits of float32 and 19 of float64 hold the exponent and 7 or 8 bits of the mantissa.
    kind, low, bins = (torch.int64, 45, 1 << 18) if flat.dtype == torch.float64 else (torch.int32, 16, 1 << 15)
    bits = magnitudes.view(kind)
    leading = bits >> low
    at_least = torch.bincount(leading, minlength=bins).flip(0).cumsum(0)
    above = int((at_least < keep).sum())
    remaining = keep - (int(at_least[above - 1]) if above else 0)
    bin_values = bits[leading == bins - 1 - above]
    return bin_values.kthvalue(bin_values.numel() - remaining + 1).values.view(flat.dtype)


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


def trimmed_rows(layer: Layer, density: float) -> Callable[[slice], Iterator[Tensor]]:
    """wᵢ τ̂ᵢ, every update trimmed as a whole (:func:`trim`), in blocks of rows.

    Args:
        layer: one module.
        density: share to keep.

    Returns:
        A function of some rows that yields them of one update after the other.
    """
    n = layer.shape[0] * layer.shape[1]
    count = len(layer.patches)
    thresholds = update_thresholds(layer, [max(1, int(density * n))] * count) if density < 1.0 else None

    def of(rows: slice) -> Iterator[Tensor]:
        for index, weight in enumerate(layer.weights):
            block = layer.rows(index, rows)
            yield scaled(block if thresholds is None else at_least(block, thresholds[index]), weight)

    return of


def by_rows(layer: Layer, merge: Callable[[slice], Tensor]) -> Tensor:
    """A merged ΔW put together from blocks of rows.

    Args:
        layer: one module.
        merge: some rows of the result.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    merged: Tensor | None = None
    for rows in row_blocks(layer.shape):
        block = merge(rows)
        if merged is None:
            merged = block.new_empty(layer.shape)
        merged[rows] = block
    assert merged is not None
    return merged


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
        updates: wᵢ τ̂ᵢ, all of one shape, at least one; whole or the same rows of each.
        weights: wᵢ, only their magnitudes matter, and only for ``weights``.
        normalize: divide by the number of agreeing entries, by the sum of their |wᵢ|, or not at all.

    Returns:
        A matrix of the updates' shape.
    """
    sums: list[Tensor] = []
    shares: list[Tensor] = []
    for update, weight in zip(updates, weights, strict=True):
        share = abs(weight) if normalize == "weights" else 1.0
        first = not sums
        for side, entries in enumerate((update.clamp_min(0), update.clamp_max(0))):
            signed = -share if side else share
            if first:
                sums.append(entries)
                if normalize != "none":
                    shares.append(entries.sign().mul_(signed))
                continue
            sums[side] += entries
            if shares:
                shares[side].add_(entries.sign_(), alpha=signed)
    positive, negative = sums
    elected = (positive + negative).sign_()
    positive *= elected.clamp_min(0)
    negative *= elected.clamp_max(0).neg_()
    if not shares:
        return positive.add_(negative)
    # Sides without a vote are 0 and stay 0: 0 / 0 would not.
    for divisor in shares:
        divisor.clamp_min_(torch.finfo(divisor.dtype).tiny)
    return positive.div_(shares[0]).addcdiv_(negative, shares[1])


def row_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    """Rows in blocks of half a megabyte of float32: temporaries stay in the processor's cache and are not mapped anew.

    Args:
        shape: of the whole matrix.

    Yields:
        Slices of rows.
    """
    yield from _blocks(shape[0], max(1, _BLOCK // max(1, shape[1])))


def _blocks(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, start + step)
