import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sst_merge.errors import DataError
from sst_merge.measures.figure import Figure
from sst_merge.measures.front import hypervolume, pareto_mask
from sst_merge.measures.intervals import mcnemar, paired_bootstrap, seed_interval, wilson_interval
from sst_merge.measures.safety_tax import (
    SweepPoint,
    composite,
    point_at_safety,
    retention,
    safety_tax,
    tax_reduction,
)

SHARE = st.floats(0, 1)
PAIRS = st.lists(st.tuples(SHARE, SHARE), max_size=12)


def parts(figure):
    """Value and ends, for comparisons within a tolerance."""
    return figure.value, figure.low, figure.high


def utility_at_safety(points, threshold=0.9):
    point = point_at_safety(points, threshold)
    return None if point is None else point.utility


def sweep(*triples: tuple[float, float, float]) -> list[SweepPoint]:
    return [SweepPoint(strength=x, safety=s, utility=u) for x, s, u in triples]


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 2), (47, 50), (123, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_solves_its_equation(k, n, level):
    low, high = wilson_interval(k, n, level)
    z = stats.norm.ppf((1 + level) / 2)
    assert 0 <= low <= k / n <= high <= 1
    for end in (low, high):
        assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_wilson_is_monotone_and_mirrors():
    lows, highs = zip(*(wilson_interval(k, 40) for k in range(41)), strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs)
    assert lows == pytest.approx([1 - high for high in reversed(highs)])
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.9])
def test_wilson_covers(rate):
    # Exact coverage, summed over all outcomes; Wilson's oscillates around its level.
    n = 200
    inside = [k for k in range(n + 1) if wilson_interval(k, n)[0] <= rate <= wilson_interval(k, n)[1]]
    assert stats.binom.pmf(inside, n, rate).sum() == pytest.approx(0.95, abs=0.02)


def test_bootstrap_agrees_with_scipy_and_ignores_order():
    rng = np.random.default_rng(0)
    a = rng.random(120) < 0.8
    b = (rng.random(120) < 0.4) | a
    ours = paired_bootstrap(a, b, seed=1, n_resamples=4000)
    oracle = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(a.mean() - b.mean())
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)
    assert ours == paired_bootstrap(list(a), list(b), seed=1, n_resamples=4000)
    order = rng.permutation(120)
    shuffled = paired_bootstrap(a[order], b[order], seed=1, n_resamples=4000)
    assert parts(shuffled) == pytest.approx(parts(ours), abs=0.01)


def test_bootstrap_is_paired_and_takes_any_statistic():
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    exact = paired_bootstrap(a + 0.5, a, seed=0, n_resamples=200)
    assert parts(exact) == pytest.approx((0.5, 0.5, 0.5))
    ratio = paired_bootstrap(
        3 * np.exp(a), np.exp(a), seed=0, n_resamples=200, statistic=lambda x, y: x.sum() / y.sum()
    )
    assert parts(ratio) == pytest.approx((3, 3, 3))


def test_bootstrap_covers():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        a = rng.normal(0.3, 1, 80)
        b = rng.normal(0, 1, 80)
        found = paired_bootstrap(a, b, seed=trial, n_resamples=300)
        hits += found.low <= 0.3 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_mcnemar_against_an_enumeration_of_coins():
    rng = random.Random(0)
    for _ in range(20):
        a = [rng.random() < 0.6 for _ in range(12)]
        b = [rng.random() < 0.4 for _ in range(12)]
        wins = [x for x, y in zip(a, b, strict=True) if x != y]
        gap = abs(2 * sum(wins) - len(wins))
        outcomes = list(itertools.product((0, 1), repeat=len(wins)))
        as_extreme = sum(abs(2 * sum(outcome) - len(wins)) >= gap for outcome in outcomes)
        assert mcnemar(a, b) == pytest.approx(as_extreme / len(outcomes))
        assert mcnemar(a, b) == mcnemar(b, a)
    assert mcnemar([True, False], [True, False]) == 1


def test_seed_interval_agrees_with_scipy_and_covers():
    rng = np.random.default_rng(3)
    values = rng.normal(0.9, 0.05, 5)
    oracle = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = seed_interval(list(values))
    assert parts(found) == pytest.approx((values.mean(), oracle.low, oracle.high))
    assert found.n == 5
    assert seed_interval([0.5, 0.5, 0.5]) == Figure(0.5, 0.5, 0.5, n=3)
    inside = [seed_interval(row) for row in rng.normal(0.9, 0.05, (2000, 5))]
    assert np.mean([found.low <= 0.9 <= found.high for found in inside]) == pytest.approx(0.95, abs=0.015)


def test_intervals_refuse_nonsense():
    for k, n in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(DataError, match="expected 0 ≤ k ≤ n"):
            wilson_interval(k, n)
    with pytest.raises(DataError, match=r"level = 95"):
        wilson_interval(1, 2, level=95)
    with pytest.raises(DataError, match="equal lengths"):
        paired_bootstrap([1, 2], [1], seed=0)
    with pytest.raises(DataError, match="equal lengths, at least 1"):
        paired_bootstrap([], [], seed=0)
    with pytest.raises(DataError, match="NaN"):
        paired_bootstrap([math.nan], [1], seed=0)
    with pytest.raises(DataError, match="n_resamples = 0"):
        paired_bootstrap([1], [1], seed=0, n_resamples=0)
    with pytest.raises(DataError, match="success or failure"):
        mcnemar([0.5], [1])
    for values in ([], [1.0], [1.0, math.inf]):
        with pytest.raises(DataError, match="at least 2 finite values"):
            seed_interval(values)


# --- the tax -----------------------------------------------------------------------------------------------------


def test_tax_by_hand():
    points = sweep((0.0, 0.1, 0.97), (0.5, 0.85, 0.9), (1.0, 0.92, 0.8), (2.0, 1.0, 0.5))
    assert utility_at_safety(points, 0.9) == 0.8
    assert utility_at_safety(points, 0.8) == 0.9
    assert utility_at_safety(points, 0.95) == 0.5
    assert safety_tax(points, 0.97, 0.9) == pytest.approx(0.17)
    assert safety_tax(points, 0.97, 1.01) is None
    assert point_at_safety(points, 1.01) is None


def test_smallest_strength_wins_over_best_utility():
    assert utility_at_safety(sweep((1.0, 0.95, 0.2), (2.0, 0.96, 0.9))) == 0.2


def test_thresholds_are_met_despite_rounding():
    mean = 0.7 + 0.2
    assert mean < 0.9
    assert utility_at_safety(sweep((1.0, mean, 0.5))) == 0.5
    assert utility_at_safety(sweep((1.0, 0.8999, 0.5))) is None


@given(
    st.lists(st.tuples(st.integers(0, 50), SHARE, SHARE), min_size=1, max_size=8, unique_by=lambda t: t[0]),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter_and_higher_thresholds_need_more_strength(triples, rng):
    points = sweep(*triples)
    shuffled = points.copy()
    rng.shuffle(shuffled)
    found = [point_at_safety(points, t) for t in (0.1, 0.5, 0.9)]
    assert found == [point_at_safety(shuffled, t) for t in (0.1, 0.5, 0.9)]
    reached = [math.inf if point is None else point.strength for point in found]
    assert reached == sorted(reached)


def test_tax_reduction():
    assert tax_reduction(0.1, 0.4) == pytest.approx(0.75)
    assert tax_reduction(0.0, 0.4) == 1
    assert tax_reduction(0.8, 0.4) == pytest.approx(-1)
    for pair in ((None, 0.4), (0.1, None), (0.1, 0.0), (0.1, -0.2)):
        assert tax_reduction(*pair) is None


def test_retention():
    assert retention({"a": 0.5, "b": 0.9}, {"a": 1.0, "b": 0.9}) == pytest.approx(0.75)
    assert retention({"b": 0.9, "a": 0.5}, {"a": 1.0, "b": 0.9}) == pytest.approx(0.75)
    for merged, experts in (({}, {}), ({"a": 1.0}, {"b": 1.0})):
        with pytest.raises(DataError, match="expected the same, at least one"):
            retention(merged, experts)
    with pytest.raises(DataError, match="experts of a score nothing"):
        retention({"a": 0.5}, {"a": 0.0})


def test_composite():
    assert composite(1, 1) == pytest.approx((45, 1, 1))
    assert composite(0, 0) == (0, 0, 0)
    assert composite(1, 0) == pytest.approx((90, math.sqrt(0.5), 0))
    assert composite(0, 1) == pytest.approx((0, math.sqrt(0.5), 0))
    angle, radius, value = composite(0.8, 0.6)
    assert (angle, radius) == pytest.approx((90 - math.degrees(math.acos(0.8)), math.sqrt(0.5)))
    assert value == pytest.approx(composite(0.6, 0.8).value)
    assert composite(0.9, 0.9).value > composite(0.8, 0.8).value
    for pair in ((-0.1, 1), (math.nan, 1), (1, math.inf)):
        with pytest.raises(DataError, match="finite values of 0 or more"):
            composite(*pair)


def test_points_carry_intervals():
    point = SweepPoint(strength=1, safety=0.9, utility=0.5, n_safety=50)
    assert point.interval_of_safety() == wilson_interval(45, 50)
    assert point.interval_of_utility() is None
    assert SweepPoint(strength=1, safety=0, utility=0.5, n_utility=20).interval_of_utility() == wilson_interval(10, 20)
    assert SweepPoint(strength=1, safety=0.9, utility=0.5).interval_of_safety() is None
    with pytest.raises(DataError, match="must be finite"):
        SweepPoint(strength=1, safety=math.nan, utility=0.5)
    with pytest.raises(DataError, match=r"utility = 1.2 is not a rate of 10 prompts"):
        SweepPoint(strength=1, safety=0.5, utility=1.2, n_utility=10)
    with pytest.raises(DataError, match="different strengths"):
        point_at_safety([])
    with pytest.raises(DataError, match="different strengths"):
        point_at_safety(sweep((1, 0.5, 0.5), (1, 0.9, 0.5)))


# --- the front ---------------------------------------------------------------------------------------------------


def test_front_by_hand():
    points = [(0.2, 0.9), (0.5, 0.5), (0.5, 0.4), (0.9, 0.2), (0.5, 0.5), (0.1, 0.1)]
    assert pareto_mask(points) == [True, True, False, True, True, False]
    assert hypervolume(points) == pytest.approx(0.2 * 0.9 + 0.3 * 0.5 + 0.4 * 0.2)
    assert hypervolume([]) == 0
    assert hypervolume([(-1, 5), (0, 1)]) == 0
    assert hypervolume([(1, 1)]) == 1
    with pytest.raises(DataError, match=r"hypervolume: point 1 is .*must be finite"):
        hypervolume([(1, 1), (math.nan, 1)])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=10))
def test_hypervolume_counts_grid_cells(cells):
    covered = {(x, y) for s, u in cells for x in range(s) for y in range(u)}
    assert hypervolume([(s / 20, u / 20) for s, u in cells]) == pytest.approx(len(covered) / 400)


def test_hypervolume_agrees_with_moocore():
    moocore = pytest.importorskip("moocore")
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((15, 2))
        oracle = moocore.hypervolume(points, ref=(0, 0), maximise=True)
        assert hypervolume([tuple(p) for p in points]) == pytest.approx(oracle)


@given(PAIRS, st.tuples(SHARE, SHARE), st.randoms(use_true_random=False))
def test_front_properties(points, extra, rng):
    area = hypervolume(points)
    assert hypervolume([*points, extra]) >= area - 1e-12
    front = [point for point, kept in zip(points, pareto_mask(points), strict=True) if kept]
    assert hypervolume(front) == pytest.approx(area)
    assert bool(front) == bool(points)
    shuffled = points.copy()
    rng.shuffle(shuffled)
    assert hypervolume(shuffled) == pytest.approx(area)
    assert sorted(p for p, kept in zip(shuffled, pareto_mask(shuffled), strict=True) if kept) == sorted(front)


def test_front_refuses_nan():
    for measure in (hypervolume, pareto_mask):
        with pytest.raises(DataError, match="point 1 is"):
            measure([(0.1, 0.2), (math.nan, 0.1)])
