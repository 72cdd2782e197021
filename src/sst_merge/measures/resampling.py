"""Bootstrap draws of means, many models at once, and the figure that is computed from such draws."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .figure import Figure

__all__ = ["figure_of", "joint_means", "reduction", "resampled_means", "sample_matrix", "seed_draws"]

Array = NDArray[np.float64]
Row = Sequence[float] | Array
Rows = Sequence[Row] | Array
_CELLS = 4_000_000  # of one block of draws, 32 MB


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


def joint_means(
    rows: Mapping[str, Rows | Row], what: str, rng: np.random.Generator, n_resamples: int
) -> dict[str, Array]:
    """:func:`resampled_means` of several methods that answered the same prompts, which are drawn together.

    Args:
        rows: method → scores, models × prompts.
        what: named in errors.
        rng: of the draws.
        n_resamples: how many.

    Returns:
        Method → models × (1 + draws).

    Raises:
        DataError: scores that are no matrix, or different numbers of prompts.
    """
    matrices = {name: sample_matrix(found, f"{what}, {name}") for name, found in rows.items()}
    prompts = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if len(set(prompts.values())) > 1:
        raise DataError(
            f"{what}: numbers of prompts {prompts}; expected the same prompts for all, to draw them jointly"
        )
    means = resampled_means(np.concatenate(list(matrices.values())), rng, n_resamples)
    ends = np.cumsum([len(matrix) for matrix in matrices.values()])[:-1]
    return dict(zip(matrices, np.split(means, ends), strict=True))


def seed_draws(figures: Sequence[Array] | Array, seed: int) -> Array:
    """The mean over training seeds, for the samples themselves and for every draw of seeds and prompts.

    A draw is the mean, plus what it changes by with seeds drawn with replacement, plus what it changes by with prompts
    drawn with replacement, the same for all seeds. Drawing only 5 seeds understates how much they scatter, so the
    seeds' part is stretched by t_{S−1} / z · √(S / (S−1)) to the length of Student's interval (Hesterberg 2015);
    drawing the cells of both levels at once and stretching the whole covers 99 to 100 % where 95 % was asked for. Equal
    seeds of the draw choose the same training seeds, so that differences and quotients of two methods' draws are
    paired. With one training seed the draws are over prompts alone.

    Args:
        figures: one row per training seed, entry 0 of the samples, the others one per draw of prompts; ±∞ and NaN
            stand for what is not defined.
        seed: of the draws of training seeds.

    Returns:
        One row of the same length; entry 0 is not finite where one of the seeds' is not.

    Raises:
        DataError: no seeds, or rows of different lengths.
    """
    rows = np.asarray(figures, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise DataError(f"seed_draws: figures of shape {rows.shape}; expected training seeds × (1 + draws)")
    means = rows.mean(axis=0)
    count = len(rows)
    if count == 1 or not np.isfinite(rows[:, 0]).all():
        return np.asarray(means)
    from scipy.stats import norm, t

    stretch = float(t.ppf(0.975, count - 1) / norm.ppf(0.975)) * math.sqrt(count / (count - 1))
    rng = np.random.default_rng(seed)
    by_seed = resampled_means(rows[:, 0][None], rng, rows.shape[1] - 1)[0, 1:] - means[0]
    means[1:] += stretch * by_seed
    return np.asarray(means)


def figure_of(draws: Array, n: int, level: float = 0.95) -> Figure | None:
    """The figure of the samples themselves with its percentile interval (Efron 1979).

    Args:
        draws: the figure of the samples, then of each draw: NaN where it is undefined, ±∞ where it is worse or better
            than any number.
        n: observations behind the figure.
        level: coverage.

    Returns:
        The figure; NaN draws are left out, infinite ones count, so that an end may lie at infinity. Without any draw
        both ends do. None where the figure is not defined for the samples.

    Raises:
        DataError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"level = {level}, expected a coverage between 0 and 1, such as 0.95")
    if not math.isfinite(draws[0]):
        return None
    known = draws[1:][~np.isnan(draws[1:])]
    if len(known) == 0:
        return Figure(float(draws[0]), -math.inf, math.inf, n)
    tail = 50 * (1 - level)
    # Interpolating between a number and infinity would give NaN.
    low, high = (float(end) for end in np.percentile(known, (tail, 100 - tail), method="inverted_cdf"))
    return Figure(float(draws[0]), low, high, n)


def reduction(own: Array, other: Array, n: int, *, least: float = 0.0, level: float = 0.95) -> Figure | None:
    """Share of another method's tax (or drift) that a method saves: 1 − own / other, draw by draw.

    Args:
        own: draws of the method's tax.
        other: draws of the other's, with the same seeds and prompts.
        n: observations behind both.
        least: the other's smallest tax of which a share says something; at or below 0 there is nothing to save.
        level: coverage.

    Returns:
        The reduction. A draw in which the method never gets safe counts as −∞; one in which the other has nothing to
        save, or never gets safe, is undefined.
    """
    saved = np.full_like(own, np.nan)
    there = np.isfinite(other) & (other > 0) & (other >= least) & ~np.isnan(own)
    saved[there] = 1 - own[there] / other[there]
    return figure_of(saved, n, level)
