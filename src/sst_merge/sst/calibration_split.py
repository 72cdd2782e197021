"""Calibration samples split in two: one part makes the Fishers, the other never meets them.

The second part decides μ and the held-out quotients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import DataError

__all__ = ["batch_rows", "split_batches"]


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
        kept.extend(batch_rows(batch, ~mask))
        aside.extend(batch_rows(batch, mask))
    return tuple(kept), tuple(aside)


def batch_rows(batch: Batch, mask: Tensor) -> list[Batch]:
    """The samples that a mask (b,) names, as one batch, or none."""
    if not bool(mask.any()):
        return []
    return [batch.rows(mask)]
