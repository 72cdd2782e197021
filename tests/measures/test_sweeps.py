"""Bootstrap intervals of sweeps, drift, retention, ranks and several seeds: oracles, coverage, invariance to order."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from sst_merge.errors import DataError
from sst_merge.measures.drift import DriftSamples, drift_draws
from sst_merge.measures.figure import Figure
from sst_merge.measures.front import hypervolume, hypervolumes, pareto_share
from sst_merge.measures.intervals import paired_bootstrap, seed_rate_interval, wilson_interval
from sst_merge.measures.ranking import rank_intervals
from sst_merge.measures.resampling import figure_of, joint_means, reduction, resampled_means
from sst_merge.measures.retention import retention_draws, together_draws
from sst_merge.measures.safety_tax import (
    SweepPoint,
    point_at_safety,
    retention,
    safety_tax,
    tax_reduction,
)
from sst_merge.measures.sweeps import MatchedSweep, SeedSamples, SweepSamples, seed_sweeps

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


def matched(sweeps, alone, *, seed, experts=None, threshold=0.9, n_resamples=2000):
    """Sweeps of one training seed."""
    samples = SeedSamples(sweeps=sweeps, utility_only=alone, experts=experts)
    return seed_sweeps({0: samples}, [threshold], seed=seed, n_resamples=n_resamples)[threshold]


MEASURES = (MatchedSweep.safety, MatchedSweep.utility, MatchedSweep.tax, MatchedSweep.hypervolume)


def figures(sweep):
    return [sweep.figure(measure) for measure in MEASURES]


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


def test_joint_means_are_those_of_the_stacked_rows():
    rows = {"a": [[1.0, 0.0, 1.0]], "b": [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]}
    found = joint_means(rows, "t", np.random.default_rng(0), 50)
    stacked = resampled_means(np.array([*rows["a"], *rows["b"]]), np.random.default_rng(0), 50)
    np.testing.assert_array_equal(np.concatenate([found["a"], found["b"]]), stacked)
    with pytest.raises(DataError, match=r"t: numbers of prompts \{'a': 3, 'b': 1\}"):
        joint_means({"a": rows["a"], "b": [[1.0]]}, "t", np.random.default_rng(0), 50)


def test_undefined_and_infinite_draws():
    draws = np.concatenate(([0.5], np.linspace(0, 1, 96), [np.inf] * 4))
    found = figure_of(draws, 7)
    assert (found.value, found.high, found.n) == (0.5, math.inf, 7)
    assert found.low == pytest.approx(2 / 95)
    half = figure_of(np.concatenate(([0.5], np.linspace(0, 1, 50), [np.nan] * 50)), 7)
    assert half.high == pytest.approx(1, abs=0.03)
    assert figure_of(np.concatenate(([0.5], [np.nan] * 9)), 7) == Figure(0.5, -math.inf, math.inf, 7)
    for undefined in (np.nan, np.inf, -np.inf):
        assert figure_of(np.concatenate(([undefined], draws)), 7) is None
    with pytest.raises(DataError, match="level = 2"):
        figure_of(draws, 7, 2)


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_sweep_figures_are_those_of_the_calculator():
    rng = np.random.default_rng(0)
    ours, alone = draw_sweep(rng)
    half = {"maths": 0.5 * np.asarray(ours.utility["maths"])}
    other = SweepSamples(strengths=ours.strengths, safety=ours.safety, utility=half)
    found = matched({"ours": ours, "other": other}, alone, seed=0, n_resamples=200)
    points = points_of(ours)
    reached = point_at_safety(points)
    tax, tax_other = (safety_tax(points_of(s), alone["maths"].mean()) for s in (ours, other))
    safety, utility, own_tax, area = figures(found["ours"])
    assert found["ours"].strengths == (reached.strength,) == (1.0,)
    assert safety.value == pytest.approx(reached.safety)
    assert utility.value == pytest.approx(reached.utility)
    assert own_tax.value == pytest.approx(tax)
    assert area.value == pytest.approx(hypervolume([(p.safety, p.utility) for p in points]))
    draws = {name: sweep.draws(MatchedSweep.tax) for name, sweep in found.items()}
    saved = reduction(draws["ours"], draws["other"], 1)
    assert saved.value == pytest.approx(tax_reduction(tax, tax_other))
    assert reduction(draws["other"], draws["other"], 1) == Figure(0, 0, 0, 1)
    for figure in (own_tax, area, saved):
        assert figure.low <= figure.value <= figure.high


def test_sweep_figures_agree_with_a_plain_loop():
    rng = np.random.default_rng(3)
    sweep, alone = draw_sweep(rng, 120)
    found = matched({"a": sweep}, alone, seed=1, n_resamples=3000)["a"]
    taxes, areas = [], []
    for _ in range(1500):
        columns, tasks = rng.integers(0, 120, 120), rng.integers(0, 120, 120)
        points = points_of(sweep, columns, tasks)
        tax = safety_tax(points, alone["maths"][tasks].mean())
        taxes.append(math.inf if tax is None else tax)
        areas.append(hypervolume([(p.safety, p.utility) for p in points]))
    for measure, oracle in ((MatchedSweep.tax, taxes), (MatchedSweep.hypervolume, areas)):
        ours = found.figure(measure)
        assert (ours.low, ours.high) == pytest.approx(np.percentile(oracle, (2.5, 97.5)), abs=0.02)


def test_intervals_cover_the_tax_although_the_strength_is_chosen():
    hits, trials = 0, 150
    for trial in range(trials):
        sweep, alone = draw_sweep(np.random.default_rng(trial), 200)
        tax = matched({"a": sweep}, alone, seed=trial, n_resamples=400)["a"].figure(MatchedSweep.tax)
        hits += tax.low <= 0.17 + 1e-9 and tax.high >= 0.17 - 1e-9
    assert 0.92 <= hits / trials <= 0.99


def test_sweeps_do_not_depend_on_the_order_of_strengths_or_methods():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    order = [2, 0, 3, 1]
    shuffled = SweepSamples(
        strengths=[sweep.strengths[i] for i in order],
        safety=[sweep.safety[i] for i in order],
        utility={"maths": [sweep.utility["maths"][i] for i in order]},
    )
    one, other = (matched({"a": of}, alone, seed=0)["a"] for of in (sweep, shuffled))
    assert figures(one) == figures(other) and one.strengths == other.strengths
    both = matched({"a": sweep, "b": shuffled}, alone, seed=0)
    assert list(both) == ["a", "b"]
    assert figures(both["a"]) == figures(both["b"]) and both["a"].agreement == both["b"].agreement


def test_thresholds_are_monotone_and_may_be_out_of_reach():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    thresholds = (0.5, 0.8, 0.95, 1.5)
    samples = {0: SeedSamples(sweeps={"a": sweep}, utility_only=alone)}
    found = [of["a"] for of in seed_sweeps(samples, thresholds, seed=0).values()]
    assert figures(found[1]) == figures(matched({"a": sweep}, alone, seed=0, threshold=0.8)["a"])
    for low, high in pairwise([of.figure(MatchedSweep.tax) for of in found[:3]]):
        assert low.value <= high.value
        assert low.low <= high.low
    never = found[3]
    assert never.strengths == (None,)
    assert never.agreement == 1
    assert figures(never)[:3] == [None, None, None]
    own = never.draws(MatchedSweep.tax)
    assert reduction(own, own, 1) is None
    assert never.figure(MatchedSweep.hypervolume) == found[0].figure(MatchedSweep.hypervolume)


def test_the_strength_is_chosen_on_dev_prompts():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    dev = np.zeros((4, 30))
    dev[3] = 1
    with_dev = SweepSamples(strengths=sweep.strengths, safety=sweep.safety, utility=sweep.utility, dev_safety=dev)
    found = matched({"a": with_dev}, alone, seed=0)["a"]
    assert (found.strengths, found.agreement) == ((2.0,), 1.0)
    assert found.figure(MatchedSweep.safety).value == pytest.approx(np.mean(sweep.safety[3]))
    with pytest.raises(DataError, match="have dev prompts"):
        matched({"a": with_dev, "b": sweep}, alone, seed=0)


def test_utility_as_a_share_of_the_experts():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    half = {"maths": 0.5 * np.asarray(sweep.utility["maths"])}
    halved = SweepSamples(strengths=sweep.strengths, safety=sweep.safety, utility=half)
    plain, raw, share = (
        matched({"a": of}, {"maths": skills}, seed=0, experts=experts)["a"].figure(MatchedSweep.tax)
        for of, skills, experts in (
            (sweep, alone["maths"], None),
            (sweep, alone["maths"], {"maths": np.ones(300)}),
            (halved, 0.5 * alone["maths"], {"maths": np.full(300, 0.5)}),
        )
    )
    assert parts(raw) == pytest.approx(parts(share))
    assert parts(raw) == pytest.approx(parts(plain))
    with pytest.raises(DataError, match="expert of maths scores nothing"):
        matched({"a": sweep}, alone, seed=0, experts={"maths": np.zeros(300)})


def test_a_figure_of_ones_own_is_a_function_of_the_sweep():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    found = matched({"a": sweep}, alone, seed=0, n_resamples=100)["a"]
    least = found.figure(lambda of: np.minimum(of.safety(), of.utility()))
    assert least.value == min(found.figure(MatchedSweep.safety).value, found.figure(MatchedSweep.utility).value)


def test_sweeps_that_do_not_fit_are_refused():
    sweep, alone = draw_sweep(np.random.default_rng(0))
    utility = sweep.utility
    short = SweepSamples(strengths=(1.0,), safety=[[1.0]], utility={"maths": [[1.0] * 300]})
    cases = (
        ({}, alone, "at least one seed and method"),
        ({"a": sweep}, {}, "expected the same for all"),
        ({"a": sweep}, {"code": alone["maths"]}, r"others in \['a'\]"),
        ({"a": sweep, "b": short}, alone, "expected the same prompts"),
        ({"a": SweepSamples(strengths=(1, 1), safety=[[1], [1]], utility=utility)}, alone, "all different"),
        ({"a": SweepSamples(strengths=(1, 2), safety=[[1]], utility=utility)}, alone, "one per strength"),
        ({"a": SweepSamples(strengths=(1, 2), safety=[[1], [1, 0]], utility={})}, alone, "safety, a"),
        ({"a": SweepSamples(strengths=(1,), safety=[[math.nan]], utility=utility)}, alone, "finite scores"),
    )
    for sweeps, reference, message in cases:
        with pytest.raises(DataError, match=message):
            matched(sweeps, reference, seed=0, n_resamples=10)


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

    def one_model(refused):
        skill = {"t": [np.ones(10)]}
        return DriftSamples(dev_safety=[refused], dev_utility=skill, safety=[refused], utility=skill)

    own, found = drift_draws(before, one_model(plain), {"ours": one_model(ours)}, seed=0, slack=0.0)
    lost, kept = before.mean() - plain.mean(), before.mean() - ours.mean()
    drift = figure_of(found["ours"].drift, 400)
    assert drift.value == pytest.approx(kept)
    assert reduction(found["ours"].drift, own.drift, 400, least=0.1).value == pytest.approx(1 - kept / lost)
    oracle = paired_bootstrap(before, ours, seed=5)
    assert (drift.low, drift.high) == pytest.approx((oracle.low, oracle.high), abs=0.006)
    with pytest.raises(DataError, match="safety: numbers of prompts"):
        drift_draws(before[1:], one_model(plain), {"ours": one_model(ours)}, seed=0, slack=0.0)


def test_retention_of_every_method():
    rng = np.random.default_rng(0)
    hard = {task: rng.random(200) for task in "abc"}
    experts = {task: (h < 0.9).astype(float) for task, h in hard.items()}
    merged = {f"loses {n}": {t: (hard[t] < 0.9 - 0.1 * n).astype(float) for t in "abc"} for n in (0, 1, 2)}
    found = {name: figure_of(draws, 3) for name, draws in retention_draws(merged, experts).items()}
    assert list(found) == list(merged)
    for name, figure in found.items():
        rates = [{t: float(np.mean(x)) for t, x in scores.items()} for scores in (merged[name], experts)]
        assert figure.value == pytest.approx(retention(rates[0], rates[1]))
    assert found["loses 0"] == Figure(1, 1, 1, 3)
    assert found["loses 1"].low < found["loses 1"].value < found["loses 1"].high < 1
    # The same prompts of a task in every set of experts that has it.
    alone = retention_draws({"m": {"a": merged["loses 1"]["a"]}}, {"a": experts["a"]})["m"]
    pair = {t: merged["loses 1"][t] for t in "ab"}
    both = retention_draws({"m": pair}, {t: experts[t] for t in "ab"})["m"]
    other = retention_draws({"m": {"b": pair["b"]}}, {"b": experts["b"]})["m"]
    np.testing.assert_allclose(both, (alone + other) / 2)
    with pytest.raises(DataError, match="expected the same tasks"):
        retention_draws({"m": {"z": [1.0]}}, experts)
    with pytest.raises(DataError, match="the expert of a scores nothing"):
        retention_draws({"m": {"a": [1.0]}}, {"a": [0.0]})
    with pytest.raises(DataError, match="retention on a: numbers of prompts"):
        retention_draws({"m": {"a": [1.0]}}, {"a": [0.0, 1.0]})


def test_tasks_together_against_a_loop():
    rng = np.random.default_rng(1)
    experts = {"easy": (rng.random(200) < 0.9).astype(float), "hopeless": np.eye(1, 60)[0]}
    merged = {
        "skilled": {"easy": experts["easy"], "hopeless": np.eye(4, 60).sum(0)},
        "weak": {"easy": experts["easy"] * (rng.random(200) < 0.7), "hopeless": np.zeros(60)},
    }
    found = together_draws(merged, experts)
    right = {name: sum(float(scores.sum()) for scores in of.values()) for name, of in merged.items()}
    of_experts = sum(float(scores.sum()) for scores in experts.values())
    drawn: dict[str, list[float]] = {name: [] for name in merged}
    for _ in range(2000):
        rows = {task: rng.integers(len(scores), size=len(scores)) for task, scores in experts.items()}
        whole = sum(experts[task][own].sum() for task, own in rows.items())
        for name, of in merged.items():
            drawn[name].append(sum(of[task][own].sum() for task, own in rows.items()) / whole)
    for name, draws in found.items():
        figure = figure_of(draws, 1)
        assert figure.value == pytest.approx(right[name] / of_experts)
        assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(drawn[name], (0.025, 0.975))), abs=0.006)
    # One expert with one right answer of 60 decides the mean of quotients.
    assert figure_of(retention_draws(merged, experts)["skilled"], 1).value == pytest.approx(2.5)
    assert figure_of(found["skilled"], 1).value < 1.02
    with pytest.raises(DataError, match=r"experts of .* score nothing"):
        together_draws({"m": {"a": [1.0]}}, {"a": [0.0]})


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
    rates = {"a": 0.9, "b": 0.5, "c": 0.5}
    tasks = {f"t{i}": {name: (hard[i] < s).astype(float) for name, s in rates.items()} for i in range(2)}
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


@pytest.mark.parametrize(
    ("rate", "spread", "n"),
    [
        (0.03, 0.015, 100),
        (0.5, 0.05, 100),
        (0.9, 0.03, 200),
    ],
)
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
