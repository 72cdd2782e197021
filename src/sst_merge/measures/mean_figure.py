"""The mean of independent figures with its interval, from theirs alone."""

import math
from collections.abc import Sequence

from ..errors import DataError
from .figure import Figure

__all__ = ["mean_figure"]


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Mean of figures of independent samples, each counting the same (MOVER: Zou and Donner 2008).

    With m = mean of vᵢ, the interval is [m − √Σ(vᵢ − lᵢ)² / K, m + √Σ(uᵢ − vᵢ)² / K]: each end comes from the
    distances of the single figures to their own ends, so that Wilson's skew near 0 and 1 is not lost.

    Args:
        figures: K ≥ 1 figures, such as the accuracy on several suites.

    Returns:
        The mean, with the level of the intervals given; `n` is all observations together.

    Raises:
        DataError: no figures.

    Example:
        >>> mean_figure([Figure(0.9, 0.8, 0.95, n=100), Figure(0.5, 0.4, 0.6, n=100)]).value
        0.7
    """
    if not figures:
        raise DataError("mean_figure: no figures; expected at least one")
    k = len(figures)
    mean = math.fsum(figure.value for figure in figures) / k
    below = math.hypot(*(figure.value - figure.low for figure in figures)) / k
    above = math.hypot(*(figure.high - figure.value for figure in figures)) / k
    return Figure(mean, mean - below, mean + above, sum(figure.n for figure in figures))
