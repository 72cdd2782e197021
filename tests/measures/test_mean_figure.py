"""The mean of independent figures: one figure is itself, and the interval covers what it says."""

import numpy as np
import pytest

from sst_merge.errors import DataError
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import wilson_interval
from sst_merge.measures.mean_figure import mean_figure


def test_one_figure_is_its_own_mean() -> None:
    figure = Figure(0.9, 0.7, 0.95, n=20)
    mean = mean_figure([figure])
    assert (mean.value, mean.low, mean.high, mean.n) == pytest.approx((0.9, 0.7, 0.95, 20))
    with pytest.raises(DataError, match="no figures"):
        mean_figure([])


def test_distances_to_the_ends_add_up_as_errors_do() -> None:
    mean = mean_figure([Figure(0.5, 0.2, 0.6, n=3), Figure(1.0, 0.6, 1.0, n=4)])
    assert (mean.value, mean.n) == (0.75, 7)
    assert mean.low == pytest.approx(0.75 - 0.5 / 2)  # √(0.3² + 0.4²) = 0.5
    assert mean.high == pytest.approx(0.75 + 0.1 / 2)


@pytest.mark.parametrize("rates", [(0.5, 0.9), (0.97, 0.9, 0.6), (0.02, 0.05)])
def test_it_covers_near_the_level_even_at_skewed_rates(rates: tuple[float, ...]) -> None:
    rng, sizes = np.random.default_rng(0), (40, 80, 60)[: len(rates)]
    ends = {n: [wilson_interval(k, n) for k in range(n + 1)] for n in sizes}
    held = 0
    for _ in range(4000):
        counts = [int(rng.binomial(n, p)) for n, p in zip(sizes, rates, strict=True)]
        figures = [Figure(k / n, *ends[n][k], n) for n, k in zip(sizes, counts, strict=True)]
        mean = mean_figure(figures)
        held += mean.low <= np.mean(rates) <= mean.high
    assert 0.93 <= held / 4000 <= 0.985
