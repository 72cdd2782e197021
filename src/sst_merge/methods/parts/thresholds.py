"""The largest magnitudes of an update, exactly and in linear time: the threshold above which a share of it lies."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .. import Layer
from .updates import blocks, row_blocks

__all__ = ["magnitude_threshold", "update_thresholds"]


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
        sample, pieces = flat[_sample_positions(flat.numel())], (flat[piece] for piece in blocks(flat.numel()))
        if (found := _bracketed(sample, pieces, flat.numel(), keep)) is not None:
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
            pieces = (layer.rows(index, rows).reshape(-1) for rows in row_blocks(layer.shape))
            threshold = _bracketed(sample, pieces, d_out * d_in, keep)
        found.append(_histogram(layer.patches[index].reshape(-1), keep) if threshold is None else threshold)
    return found


def _sample_positions(size: int) -> Tensor:
    # An odd step is rarely a divisor of a row's length; where it is, a bracket may miss, and that only costs time.
    return torch.arange(0, size, max(1, size >> 13) | 1)


def _bracketed(sample: Tensor, pieces: Iterable[Tensor], size: int, keep: int) -> Tensor | None:
    """The ``keep``-th largest magnitude of a CPU vector that comes in pieces, or None where the bracket misses it.

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
    for piece in pieces:
        magnitudes = np.abs(piece.numpy())
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
