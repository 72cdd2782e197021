"""The record of a figure: what it refuses, and its cut interval."""

import math

import pytest
from scipy.stats import binomtest

from sst_merge.errors import DataError
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import rate


@pytest.mark.parametrize(
    ("value", "low", "high", "n"),
    [
        (math.nan, 0.0, 1.0, 3),
        (math.inf, 0.0, math.inf, 3),
        (0.5, 0.6, 0.4, 3),
        (0.5, math.nan, 1.0, 3),
        (0.5, 0.0, math.nan, 3),
        (0.5, 0.0, 1.0, 0),
    ],
)
def test_what_is_no_figure_is_refused(value: float, low: float, high: float, n: int) -> None:
    with pytest.raises(DataError, match="use None"):
        Figure(value, low, high, n)


def test_ends_may_lie_at_infinity_and_be_cut() -> None:
    assert Figure(0.1, -math.inf, math.inf, 2).within(0, 1) == Figure(0.1, 0, 1, 2)
    assert Figure(0.5, 0.4, 0.6, 2).within(0, 1) == Figure(0.5, 0.4, 0.6, 2)
    # A value outside its percentile interval, and an interval outside what is possible.
    assert Figure(1.0, 1.01, 1.02, 2).within(0, 1) == Figure(1.0, 1, 1, 2)


def test_a_rate_has_wilsons_interval() -> None:
    found, oracle = rate(7, 40), binomtest(7, 40).proportion_ci(method="wilson")
    assert (found.value, found.n) == (7 / 40, 40)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    with pytest.raises(DataError, match="expected 0 ≤ k ≤ n"):
        rate(3, 2)
