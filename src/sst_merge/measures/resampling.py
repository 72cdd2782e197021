"""Bootstrap draws of means, many models at once, and the percentile interval of what is computed from them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["Measured", "measured", "resampled_means", "sample_matrix"]

Array = NDArray[np.float64]
Row = Sequence[float] | Array
Rows = Sequence[Row] | Array
_CELLS = 4_000_000  # of one block of draws, 32 MB


class Measured(NamedTuple):
    """A figure with its bootstrap interval, where it may be undefined for some draws.

    Attributes:
        value: the figure of the samples themselves; None where it is not defined.
        low: lower end; None where it lies at −∞ or there is no draw to say.
        high: upper end; None where it lies at +∞ or there is no draw to say.
        defined: share of draws for which the figure is defined and finite. Below the level, the interval says nothing
            about the draws that are missing.
    """

    value: float | None
    low: float | None
    high: float | None
    defined: float


def sample_matrix(rows: Rows | Row, what: str) -> Array:
    """Scores as a matrix, one row a model and one column a prompt.

    Args:
        rows: scores; a single sequence is one row.
        what: named in the error.

    Returns:
        A matrix of finite numbers with at least one row and column.

    Raises:
        DataError: rows of different lengths, no scores, or scores that are not finite.
    """
    try:
        matrix = np.atleast_2d(np.asarray(rows, dtype=np.float64))
    except ValueError as error:
        raise DataError(f"{what}: {error}; expected rows of equal length, one score per prompt") from error
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise DataError(f"{what}: scores of shape {matrix.shape}; expected finite scores, models × prompts, at least 1")
    return matrix


def resampled_means(matrix: Array, rng: np.random.Generator, n_resamples: int) -> Array:
    """Means of every row, of the samples themselves and over prompts drawn with replacement, the same for all rows.

    Args:
        matrix: models × prompts.
        rng: of the draws.
        n_resamples: how many.

    Returns:
        Models × (1 + draws); column 0 holds the means of the samples themselves.

    Raises:
        DataError: less than one draw.
    """
    if n_resamples < 1:
        raise DataError(f"n_resamples = {n_resamples}, expected at least 1")
    prompts = matrix.shape[1]
    block = max(1, _CELLS // prompts)
    even = np.full(prompts, 1 / prompts)
    parts = [matrix.mean(axis=1, keepdims=True)]
    for start in range(0, n_resamples, block):
        counts = rng.multinomial(prompts, even, size=min(block, n_resamples - start))
        parts.append(matrix @ counts.T.astype(np.float64) / prompts)
    return np.concatenate(parts, axis=1)


def measured(figures: Array, level: float = 0.95) -> Measured:
    """The percentile interval (Efron 1979) of a figure that need not be defined for every draw.

    Args:
        figures: of the samples themselves, then of each draw: NaN where it is undefined, ±∞ where it is worse or
            better than any number.
        level: coverage.

    Returns:
        The figure; NaN draws are left out, infinite ones take part, and an end that lies there is None.

    Raises:
        DataError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"level = {level}, expected a coverage between 0 and 1, such as 0.95")
    value, draws = (float(figures[0]) if math.isfinite(figures[0]) else None), figures[1:]
    known = draws[~np.isnan(draws)]
    finite = float(np.isfinite(draws).mean())
    if len(known) == 0:
        return Measured(value, None, None, finite)
    tail = 50 * (1 - level)
    # Interpolating between a number and infinity would give NaN.
    low, high = (float(end) for end in np.percentile(known, (tail, 100 - tail), method="inverted_cdf"))
    return Measured(value, low if math.isfinite(low) else None, high if math.isfinite(high) else None, finite)
