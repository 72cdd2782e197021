"""Bootstrap intervals of sweeps, drift, retention, ranks and several seeds: oracles, coverage, invariance to order."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from sst_merge.errors import DataError
from sst_merge.measures.drift_intervals import drift_intervals
from sst_merge.measures.figure import Figure
from sst_merge.measures.front import hypervolume
from sst_merge.measures.intervals import paired_bootstrap, wilson_interval
from sst_merge.measures.ranking import pareto_share, rank_intervals
from sst_merge.measures.resampling import measured, resampled_means
from sst_merge.measures.retention_curve import retention_curve
from sst_merge.measures.safety_tax import (
    SweepPoint,
    drift_reduction,
    point_at_safety,
    retention,
    safety_tax,
    tax_reduction,
)
from sst_merge.measures.seeds import hierarchical_bootstrap, seed_rate_interval
from sst_merge.measures.sweep_intervals import SweepSamples, hypervolumes, sweep_intervals

SAFETY = (0.3, 0.7, 0.93, 0.99)
UTILITY = (0.95, 0.9, 0.8, 0.6)


def parts(figure):
    """Value and ends, for comparisons within a tolerance."""
    return figure.value, figure.low, figure.high


def draw_sweep(rng, n=300, *, safety=SAFETY, utility=UTILITY, strengths=(0.0, 0.5, 1.0, 2.0)):
    """A sweep whose models agree on which prompts are hard, as real ones do."""
    hard = rng.random(n), rng.random(n)
    return SweepSamples(
        strengths=strengths,
        safety=[(hard[0] < s).astype(float) for s in safety],
        utility={"maths": [(hard[1] < u).astype(float) for u in utility]},
    ), {"maths": (hard[1] < 0.97).astype(float)}


def points_of(sweep, columns=slice(None), tasks=slice(None)):
    safety, utility = np.asarray(sweep.safety)[:, columns], np.asarray(sweep.utility["maths"])[:, tasks]
    return [
        SweepPoint(strength=x, safety=s.mean(), utility=u.mean())
        for x, s, u in zip(sweep.strengths, safety, utility, strict=True)
    ]


# --- draws -------------------------------------------------------------------------------------------------------


def test_draws_are_joint_and_have_the_bootstrap_variance():
    rng = np.random.default_rng(0)
    row = rng.normal(size=50)
    means = resampled_means(np.stack([row, row + 1, -row]), np.random.default_rng(1), 4000)
    assert means.shape == (3, 4001)
    assert means[0, 0] == pytest.approx(row.mean())
    np.testing.assert_allclose(means[1] - means[0], 1)
    np.testing.assert_allclose(means[2], -means[0])
    assert means[0, 1:].std() == pytest.approx(row.std() / math.sqrt(50), rel=0.05)
    with pytest.raises(DataError, match="n_resamples = 0"):
        resampled_means(np.ones((1, 2)), rng, 0)


def test_undefined_and_infinite_draws():
    figures = np.concatenate(([0.5], np.linspace(0, 1, 96), [np.inf] * 4))
    assert measured(figures).high is None
    assert measured(figures).low == pytest.approx(2 / 95)
    assert measured(figures).defined == pytest.approx(0.96)
    found = measured(np.concatenate(([np.nan], np.linspace(0, 1, 50), [np.nan] * 50)))
    assert found.value is None
    assert found.defined == 0.5
    assert found.high == pytest.approx(1, abs=0.03)
    assert measured(np.full(10, np.nan)) == (None, None, None, 0)
    with pytest.raises(DataError, match="level = 2"):
        measured(figures, 2)


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_sweep_figures_are_those_of_the_calculator():
    rng = np.random.default_rng(0)
    ours, alone = draw_sweep(rng)
    other = SweepSamples(strengths=ours.strengths, safety=ours.safety,
                         utility={"maths": 0.5 * np.asarray(ours.utility["maths"])})  # fmt: skip
    found = sweep_intervals({"ours": ours, "other": other}, alone, seed=0, against="other", n_resamples=200)
    points = points_of(ours)
    reached = point_at_safety(points)
    tax, dear = (safety_tax(points_of(s), alone["maths"].mean()) for s in (ours, other))
    assert found["ours"].strength == reached.strength == 1.0
    assert found["ours"].safety.value == pytest.approx(reached.safety)
    assert found["ours"].utility.value == pytest.approx(reached.utility)
    assert found["ours"].tax.value == pytest.approx(tax)
    assert found["ours"].tax_reduction.value == pytest.approx(tax_reduction(tax, dear))
    assert found["other"].tax_reduction == (0, 0, 0, 1)
    assert found["ours"].hypervolume.value == pytest.approx(hypervolume([(p.safety, p.utility) for p in points]))
    for figure in (found["ours"].tax, found["ours"].hypervolume, found["ours"].tax_reduction):
        assert figure.low <= figure.value <= figure.high


def test_sweep_intervals_agree_with_a_plain_loop():
    rng = np.random.default_rng(3)
    sweep, alone = draw_sweep(rng, 120)
    found = sweep_intervals({"a": sweep}, alone, seed=1, n_resamples=3000)["a"]
    taxes, areas = [], []
    for _ in range(1500):
        columns, tasks = rng.integers(0, 120, 120), rng.integers(0, 120, 120)
        points = points_of(sweep, columns, tasks)
        tax = safety_tax(points, alone["maths"][tasks].mean())
        taxes.append(math.inf if tax is None else tax)
        areas.append(hypervolume([(p.safety, p.utility) for p in points]))
    for ours, oracle in ((found.tax, taxes), (found.hypervolume, areas)):
        assert (ours.low, ours.high) == pytest.approx(np.percentile(oracle, (2.5, 97.5)), abs=0.02)


def test_sweep_intervals_cover_the_tax_although_the_strength_is_chosen():
    hits, trials = 0, 150
    for trial in range(trials):
        sweep, alone = draw_sweep(np.random.default_rng(trial), 200)
        tax = sweep_intervals({"a": sweep}, alone, seed=trial, n_resamples=400)["a"].tax
        hits += tax.low <= 0.17 + 1e-9 and (tax.high is None or tax.high >= 0.17 - 1e-9)
    assert 0.92 <= hits / trials <= 0.99


def test_sweeps_do_not_depend_on_the_order_of_strengths_or_methods():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    order = [2, 0, 3, 1]
    shuffled = SweepSamples(
        strengths=[sweep.strengths[i] for i in order],
        safety=[sweep.safety[i] for i in order],
        utility={"maths": [sweep.utility["maths"][i] for i in order]},
    )
    assert sweep_intervals({"a": sweep}, alone, seed=0) == sweep_intervals({"a": shuffled}, alone, seed=0)
    both = sweep_intervals({"a": sweep, "b": shuffled}, alone, seed=0)
    assert list(both) == ["a", "b"]
    assert both["a"] == both["b"]


def test_thresholds_are_monotone_and_may_be_out_of_reach():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    found = [sweep_intervals({"a": sweep}, alone, seed=0, threshold=t)["a"] for t in (0.5, 0.8, 0.95)]
    for low, high in pairwise(found):
        assert low.tax.value <= high.tax.value
        assert low.tax.low <= high.tax.low
    never = sweep_intervals({"a": sweep}, alone, seed=0, threshold=1.5, against="a")["a"]
    assert never.strength is None
    assert never.agreement == 1
    assert never.tax == (None, None, None, 0)
    assert never.tax_reduction.value is None
    assert never.hypervolume.value == found[0].hypervolume.value


def test_the_strength_is_chosen_on_dev_prompts():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    dev = np.zeros((4, 30))
    dev[3] = 1
    with_dev = SweepSamples(strengths=sweep.strengths, safety=sweep.safety, utility=sweep.utility, dev_safety=dev)
    found = sweep_intervals({"a": with_dev}, alone, seed=0)["a"]
    assert (found.strength, found.agreement) == (2.0, 1.0)
    assert found.safety.value == pytest.approx(np.mean(sweep.safety[3]))
    with pytest.raises(DataError, match="have dev prompts"):
        sweep_intervals({"a": with_dev, "b": sweep}, alone, seed=0)


def test_utility_as_a_share_of_the_experts():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    half = {"maths": 0.5 * np.asarray(sweep.utility["maths"])}
    halved = SweepSamples(strengths=sweep.strengths, safety=sweep.safety, utility=half)
    raw = sweep_intervals({"a": sweep}, alone, seed=0, experts={"maths": np.ones(300)})["a"]
    share = sweep_intervals(
        {"a": halved}, {"maths": 0.5 * alone["maths"]}, seed=0, experts={"maths": np.full(300, 0.5)}
    )["a"]
    assert raw.tax == pytest.approx(share.tax)
    assert raw.tax == pytest.approx(sweep_intervals({"a": sweep}, alone, seed=0)["a"].tax)
    with pytest.raises(DataError, match="expert of maths scores nothing"):
        sweep_intervals({"a": sweep}, alone, seed=0, experts={"maths": np.zeros(300)})


def test_sweeps_that_do_not_fit_are_refused():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    short = SweepSamples(strengths=(1.0,), safety=[[1.0]], utility={"maths": [[1.0] * 300]})
    cases = (
        ({}, alone, None, "at least one method"),
        ({"a": sweep}, alone, "b", "against = 'b'"),
        ({"a": sweep}, {}, None, "expected the same for all"),
        ({"a": sweep}, {"code": alone["maths"]}, None, r"others in \['a'\]"),
        ({"a": sweep, "b": short}, alone, None, "expected the same prompts"),
        ({"a": SweepSamples(strengths=(1, 1), safety=[[1], [1]], utility=sweep.utility)}, alone, None, "all different"),
        ({"a": SweepSamples(strengths=(1, 2), safety=[[1]], utility=sweep.utility)}, alone, None, "one per strength"),
        ({"a": SweepSamples(strengths=(1, 2), safety=[[1], [1, 0]], utility={})}, alone, None, "safety of a"),
        ({"a": SweepSamples(strengths=(1,), safety=[[math.nan]], utility=sweep.utility)}, alone, None, "finite scores"),
    )  # fmt: skip
    for sweeps, reference, against, message in cases:
        with pytest.raises(DataError, match=message):
            sweep_intervals(sweeps, reference, seed=0, against=against, n_resamples=10)


def test_many_hypervolumes_agree_with_one_and_with_moocore():
    rng = np.random.default_rng(0)
    safety, utility = rng.normal(0.5, 0.5, (2, 7, 40))
    safety[3] = safety[2]
    areas = hypervolumes(safety, utility)
    fronts = [list(zip(s, u, strict=True)) for s, u in zip(safety.T, utility.T, strict=True)]
    assert areas == pytest.approx([hypervolume(front) for front in fronts])
    moocore = pytest.importorskip("moocore")
    assert areas == pytest.approx([moocore.hypervolume(np.array(f), ref=(0, 0), maximise=True) for f in fronts])


# --- drift, retention, ranks -------------------------------------------------------------------------------------


def test_drift_and_its_reduction():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    before, plain, ours = ((hard < s).astype(float) for s in (0.95, 0.55, 0.9))
    found = drift_intervals(before, {"plain": plain, "ours": ours}, plain="plain", seed=0)
    lost, kept = before.mean() - plain.mean(), before.mean() - ours.mean()
    assert found["ours"][0].value == pytest.approx(kept)
    assert found["ours"][1].value == pytest.approx(drift_reduction(kept, lost))
    assert found["plain"][1] == (0, 0, 0, 1)
    oracle = paired_bootstrap(before, ours, seed=5)
    assert found["ours"][0][1:3] == pytest.approx((oracle.low, oracle.high), abs=0.006)
    little = drift_intervals(before, {"plain": ours, "ours": plain}, plain="plain", seed=0)
    assert little["ours"][1].value is None
    assert little["ours"][1].defined < 0.05
    with pytest.raises(DataError, match="plain = 'x'"):
        drift_intervals(before, {"a": ours}, plain="x", seed=0)
    with pytest.raises(DataError, match="the same prompts for all"):
        drift_intervals(before, {"a": ours[1:]}, plain="a", seed=0)


def test_retention_against_the_number_of_experts():
    rng = np.random.default_rng(0)
    hard = {task: rng.random(200) for task in "abc"}
    experts = {task: (h < 0.9).astype(float) for task, h in hard.items()}
    merged = {n: {t: (hard[t] < 0.9 - 0.1 * n).astype(float) for t in "abc"[:n]} for n in (3, 1, 2)}
    curve = retention_curve(merged, experts, seed=0)
    assert list(curve) == [1, 2, 3]
    for n, found in curve.items():
        rates = [{t: float(np.mean(x)) for t, x in scores.items()} for scores in (merged[n], experts)]
        assert found.value == pytest.approx(retention(rates[0], {t: rates[1][t] for t in merged[n]}))
        assert found.low < found.value < found.high
    assert curve[1].value > curve[2].value > curve[3].value
    same = retention_curve({1: {"a": experts["a"]}}, experts, seed=0)
    assert same[1] == (1, 1, 1, 1)
    with pytest.raises(DataError, match="no expert for tasks"):
        retention_curve({1: {"z": [1.0]}}, experts, seed=0)
    with pytest.raises(DataError, match="the expert of a scores nothing"):
        retention_curve({1: {"a": [1.0]}}, {"a": [0.0]}, seed=0)
    with pytest.raises(DataError, match="same prompts for the expert"):
        retention_curve({1: {"a": [1.0]}}, {"a": [0.0, 1.0]}, seed=0)


def test_pareto_share():
    curves = {"a": [(0.2, 0.9), (0.9, 0.2)], "b": [(0.5, 0.5), (0.1, 0.1)], "c": [(0.1, 0.2)]}
    assert pareto_share(curves) == {"a": 1, "b": 0.5, "c": 0}
    assert pareto_share({"a": [(1, 1)], "b": [(1, 1)]}) == {"a": 1, "b": 1}
    moocore = pytest.importorskip("moocore")
    rng = np.random.default_rng(0)
    many = {name: [tuple(p) for p in rng.random((6, 2))] for name in "abc"}
    kept = moocore.is_nondominated(np.concatenate(list(many.values())), maximise=True)
    assert list(pareto_share(many).values()) == pytest.approx([part.mean() for part in kept.reshape(3, 6)])
    with pytest.raises(DataError, match="no points of b"):
        pareto_share({"a": [(1, 1)], "b": []})


def test_ranks():
    rng = np.random.default_rng(0)
    hard = rng.random((2, 300))
    tasks = {f"t{i}": {name: (hard[i] < s).astype(float) for name, s in (("a", 0.9), ("b", 0.5), ("c", 0.5))}
             for i in range(2)}  # fmt: skip
    found = rank_intervals(tasks, seed=0)
    assert found == {"a": Figure(1, 1, 1, 2), "b": Figure(2.5, 2.5, 2.5, 2), "c": Figure(2.5, 2.5, 2.5, 2)}
    assert rank_intervals(tasks, seed=0, higher_is_better=False)["a"] == Figure(3, 3, 3, 2)
    close = {"t": {"a": rng.random(50) < 0.6, "b": rng.random(50) < 0.6}}
    assert parts(rank_intervals(close, seed=0)["a"])[1:] == (1, 2)
    means = {name: np.mean([tasks[t][name].mean() for t in tasks]) for name in "abc"}
    assert [found[n].value for n in "abc"] == list(stats.rankdata([-means[n] for n in "abc"]))
    with pytest.raises(DataError, match=r"other ones on tasks \['u'\]"):
        rank_intervals({"t": {"a": [1]}, "u": {"b": [1]}}, seed=0)
    with pytest.raises(DataError, match="at least one"):
        rank_intervals({}, seed=0)


# --- several seeds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "spread", "n"), [(0.5, 0.05, 100), (0.9, 0.03, 200), (0.03, 0.015, 100)])
def test_seed_rate_interval_covers_and_stays_a_share(rate, spread, n):
    rng = np.random.default_rng(7)
    total = rate * (1 - rate) / spread**2 - 1
    rates = rng.beta(rate * total, (1 - rate) * total, (1000, 5))
    found = [seed_rate_interval([(int(k), n) for k in row]) for row in rng.binomial(n, rates)]
    assert 0.92 <= np.mean([f.low <= rate <= f.high for f in found]) <= 0.98
    assert all(0 <= f.low <= f.value <= f.high <= 1 for f in found)


def test_seed_rate_interval_by_hand():
    found = seed_rate_interval([(50, 50)] * 5)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(wilson_interval(250, 250)[0])
    assert seed_rate_interval([(9, 10), (8, 10), (5, 10)]).value == pytest.approx(22 / 30)
    counts = [(90, 100), (70, 100), (80, 100)]
    logits = [math.log((k + 0.5) / (100.5 - k)) for k, _ in counts]
    oracle = stats.ttest_1samp(logits, 0).confidence_interval(0.95)
    assert parts(seed_rate_interval(counts))[1:] == pytest.approx((
        1 / (1 + math.exp(-oracle.low)),
        1 / (1 + math.exp(-oracle.high)),
    ))
    assert parts(seed_rate_interval(counts[::-1])) == pytest.approx(parts(seed_rate_interval(counts)))
    for bad in ([(1, 2)], [(3, 2), (1, 2)], [(0, 0), (1, 2)]):
        with pytest.raises(DataError, match="at least 2 seeds"):
            seed_rate_interval(bad)


@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_prompt"), [(5, 0.1, 0.3), (5, 0.02, 0.5), (3, 0.2, 0.0), (8, 0.1, 1.0)]
)
def test_hierarchical_bootstrap_covers(seeds, by_seed, by_prompt):
    rng = np.random.default_rng(11)
    hits, trials, prompts = 0, 300, 60
    for trial in range(trials):
        scores = 0.1 + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_prompt, (1, prompts))
        scores += rng.normal(0, 0.3, (seeds, prompts))
        found = hierarchical_bootstrap(scores, np.zeros_like(scores), seed=trial, n_resamples=1000)
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / trials <= 0.98


def test_hierarchical_bootstrap_is_paired_and_contains_both_levels():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 50))
    assert parts(hierarchical_bootstrap(base + 0.25, base, seed=0, n_resamples=100)) == pytest.approx((0.25,) * 3)
    noisy = hierarchical_bootstrap(base, 0 * base, seed=0)
    assert noisy == hierarchical_bootstrap(base, 0 * base, seed=0)
    assert noisy.value == pytest.approx(base.mean())
    for more in (np.array([[-1], [0], [0], [1]]), np.linspace(-4, 4, 50)):
        wide = hierarchical_bootstrap(base + more, 0 * base, seed=0)
        assert wide.high - wide.low > 2 * (noisy.high - noisy.low)
    with pytest.raises(DataError, match="at least 2 seeds"):
        hierarchical_bootstrap([[1.0]], [[0.0]], seed=0)
    with pytest.raises(DataError, match="n_resamples = 0"):
        hierarchical_bootstrap(base, base, seed=0, n_resamples=0)
    with pytest.raises(DataError, match="level = 95"):
        hierarchical_bootstrap(base, base, seed=0, level=95)


def test_fast_and_plain_paired_bootstrap_agree():
    rng = np.random.default_rng(0)
    a, b = rng.random(150) < 0.7, rng.random(150) < 0.5
    plain = paired_bootstrap(a, b, seed=1, statistic=lambda x, y: float(x.mean() - y.mean()))
    assert parts(paired_bootstrap(a, b, seed=1)) == pytest.approx(parts(plain), abs=0.008)


def test_paired_bootstrap_covers_rates():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(600):
        hard = rng.random(120)
        a, b = hard < 0.8, np.where(rng.random(120) < 0.5, hard, rng.random(120)) < 0.7
        found = paired_bootstrap(a, b, seed=trial, n_resamples=1000)
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / 600 <= 0.98
