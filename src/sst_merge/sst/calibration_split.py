"""Calibration samples split in two: one part makes the Fishers, the other never meets them.

The second part decides μ and the held-out quotients.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import DataError

__all__ = ["samples_of", "split_batches", "without_samples"]


def split_batches(batches: Sequence[Batch], share: float, seed: int) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """Set aside a share of the samples, at least one on each side unless the share is 0.

    Args:
        batches: with distinct prompts (the data loader removes duplicates).
        share: of the samples to set aside, 0 to 1.
        seed: which ones.

    Returns:
        (kept, set aside), rows in their old order and batches.

    Raises:
        DataError: fewer than two samples.
    """
    if share == 0 or not batches:
        return tuple(batches), ()
    total = sum(len(b) for b in batches)
    if total < 2:
        raise DataError(f"{total} calibration samples cannot be split into Fisher and held-out parts; give at least 2")
    n_aside = min(total - 1, max(1, round(share * total)))
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n_aside]] = True
    kept, aside, start = [], [], 0
    for batch in batches:
        mask = chosen[start : start + len(batch)].to(batch.input_ids.device)
        start += len(batch)
        kept.extend(_rows(batch, ~mask))
        aside.extend(_rows(batch, mask))
    return tuple(kept), tuple(aside)


def _rows(batch: Batch, mask: Tensor) -> list[Batch]:
    """The samples that a mask (b,) names, as one batch, or none."""
    if not bool(mask.any()):
        return []
    return [batch.rows(mask)]


def samples_of(batches: Iterable[Batch]) -> set[tuple[int, ...]]:
    """Every sample's tokens, padding left out."""
    return {sample for batch in batches for sample in _samples(batch)}


def without_samples(batches: Sequence[Batch], taken: Collection[tuple[int, ...]]) -> tuple[Batch, ...]:
    """The samples that are not among some others, in their old order and batches."""
    kept: list[Batch] = []
    for batch in batches:
        mask = [sample not in taken for sample in _samples(batch)]
        kept += _rows(batch, torch.tensor(mask, device=batch.input_ids.device))
    return tuple(kept)


def _samples(batch: Batch) -> list[tuple[int, ...]]:
    pairs = zip(batch.input_ids, batch.attention_mask, strict=True)
    return [tuple(ids[mask.bool()].tolist()) for ids, mask in pairs]
