"""Pieces that several methods on single entries share: trimming, dropping, sign election."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from .. import Layer
from .draws import EntryDraws
from .thresholds import magnitude_threshold, update_thresholds
from .updates import by_rows, scaled

__all__ = [
    "Normalization",
    "Rescaling",
    "added",
    "at_least",
    "disjoint_merge",
    "drop",
    "merge_dropped",
    "rescaled",
    "trim",
    "trimmed_rows",
]

Normalization = Literal["count", "weights", "none"]
Rescaling = Literal["paper", "l1", "none"]


def trim(update: Tensor, density: float) -> Tensor:
    """Keep a share of the entries, the largest by magnitude: at least one, and all that tie with the last one."""
    if density >= 1.0:
        return update
    return at_least(update, magnitude_threshold(update, max(1, int(density * update.numel()))))


def trimmed_rows(layer: Layer, density: float) -> Callable[[slice], Iterator[Tensor]]:
    """wᵢ τ̂ᵢ, every update trimmed as a whole (:func:`trim`): a function of some rows, one update after the other."""
    n = layer.shape[0] * layer.shape[1]
    count = len(layer.patches)
    thresholds = update_thresholds(layer, [max(1, int(density * n))] * count) if density < 1.0 else None

    def of(rows: slice) -> Iterator[Tensor]:
        for index, weight in enumerate(layer.weights):
            block = layer.rows(index, rows)
            yield scaled(block if thresholds is None else at_least(block, thresholds[index]), weight)

    return of


def at_least(update: Tensor, threshold: Tensor) -> Tensor:
    """The entries of at least a magnitude t ≥ 0, 0 elsewhere."""
    # Hard shrinkage keeps |v| > λ, in one vectorised pass where a comparison and a selection take many times as long.
    below = torch.nextafter(threshold, threshold.new_tensor(-1.0))
    return torch.nn.functional.hardshrink(update, float(below))


def drop(update: Tensor, density: float | Tensor, draws: EntryDraws) -> Tensor:
    """Keep every entry with its own independent probability, without rescaling.

    Args:
        update: a matrix.
        density: probability to keep; a number or one per entry.
        draws: of the next rows.

    Returns:
        A matrix of the same shape.
    """
    return draws.below(density, update).mul_(update)


def rescaled(dropped: Tensor, update: Tensor, density: float | Tensor, rescale: Rescaling) -> Tensor:
    """Make up for the dropped entries.

    Args:
        dropped: the update with some entries set to 0; may be changed in place.
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
        return dropped.div_(density)
    left = dropped.abs().sum()
    return torch.where(left > 0, dropped * (update.abs().sum() / left), dropped)


def merge_dropped(
    layer: Layer,
    density: Callable[[Tensor], float | Tensor],
    rescale: Rescaling,
    combine: Callable[[Iterator[Tensor]], Tensor],
) -> Tensor:
    """Combine wᵢ τ̃ᵢ, every update with entries dropped at random (:func:`drop`) and rescaled.

    Blocks of rows go from factors to the merged entries in one pass, while the processor's cache holds them.

    Args:
        layer: its draws of every adapter are used.
        density: rows of an update → probability to keep an entry, a number or one per entry.
        rescale: see :func:`rescaled`.
        combine: the updates, whole or the same rows of each → the merged matrix or rows.

    Returns:
        The merged matrix.
    """
    draws = [EntryDraws(layer.draws(index)) for index in range(len(layer.weights))]

    def updates(rows: slice) -> Iterator[Tensor]:
        for index, weight in enumerate(layer.weights):
            tau = layer.rows(index, rows)
            probability = density(tau)
            kept = drop(tau, probability, draws[index])
            yield scaled(rescaled(kept, tau, probability, rescale), weight)

    if rescale == "l1":  # one number for a whole update
        return combine(updates(slice(None)))
    return by_rows(layer, lambda rows: combine(updates(rows)))


def added(updates: Iterator[Tensor]) -> Tensor:
    """Σᵢ uᵢ of at least one update that nobody else holds, from 0 on: a lone −0 becomes 0."""
    total = next(updates).add_(0.0)
    for update in updates:
        total += update
    return total


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
