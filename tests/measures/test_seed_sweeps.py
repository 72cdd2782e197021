"""Sweeps and drift over training seeds: values by hand, intervals against the single-seed ones they are made of."""

import numpy as np
import pytest

from sst_merge.errors import DataError
from sst_merge.measures.drift_sweeps import DriftSamples, drift_draws
from sst_merge.measures.resampling import measured
from sst_merge.measures.seed_sweeps import SeedSweepSamples, reduction, seed_draws, seed_sweeps
from sst_merge.measures.sweep_intervals import SweepSamples, sweep_intervals


def _sweep(rng: np.random.Generator, safety: list[float], utility: list[float], n: int = 80) -> SweepSamples:
    return SweepSamples(
        strengths=range(len(safety)),
        safety=(rng.random((len(safety), n)) < np.array(safety)[:, None]).astype(float),
        utility={"task": (rng.random((len(utility), n)) < np.array(utility)[:, None]).astype(float)},
        dev_safety=(rng.random((len(safety), n)) < np.array(safety)[:, None]).astype(float),
    )


def _seed(number: int, cheap: float = 0.9) -> SeedSweepSamples:
    rng = np.random.default_rng(number)
    return SeedSweepSamples(
        sweeps={"dear": _sweep(rng, [0.1, 0.6, 1.0], [0.95, 0.8, 0.5]),
                "cheap": _sweep(rng, [0.2, 0.99, 1.0], [0.95, cheap, 0.7]),
                "never": _sweep(rng, [0.0, 0.1, 0.2], [0.9, 0.9, 0.9])},
        utility_only={"task": (rng.random(80) < 0.97).astype(float)},
        experts={"task": np.ones(80)},
    )  # fmt: skip


def test_one_seed_is_the_sweep_itself() -> None:
    of = _seed(1)
    many = seed_sweeps({0: of}, seed=5, n_resamples=300)
    one = sweep_intervals(of.sweeps, of.utility_only, seed=5, experts=of.experts, against="dear", n_resamples=300)
    for name, found in many.items():
        assert measured(found.tax) == one[name].tax
        assert measured(found.hypervolume) == one[name].hypervolume
        assert found.agreement == one[name].agreement
    assert reduction(many["cheap"].tax, many["dear"].tax) == one["cheap"].tax_reduction


def test_several_seeds_give_the_mean_and_an_interval_that_knows_their_scatter() -> None:
    seeds = {s: _seed(s, cheap) for s, cheap in enumerate((0.95, 0.7, 0.9, 0.6, 0.85))}
    many = seed_sweeps(seeds, seed=3, n_resamples=1000)
    taxes = {}
    for s, of in seeds.items():
        one = sweep_intervals(of.sweeps, of.utility_only, seed=3, experts=of.experts, n_resamples=10)
        taxes[s] = {name: found.tax.value for name, found in one.items()}
    cheap = measured(many["cheap"].tax)
    assert cheap.value == pytest.approx(np.mean([t["cheap"] for t in taxes.values()]))
    prompts_alone = measured(np.mean([sweep_intervals(of.sweeps, of.utility_only, seed=3, experts=of.experts,
                                                      n_resamples=10)["cheap"].tax.value for of in seeds.values()])
                             * np.ones(10))  # fmt: skip
    assert cheap.high - cheap.low > 0.1 > prompts_alone.high - prompts_alone.low
    saved = reduction(many["cheap"].tax, many["dear"].tax)
    by_hand = 1 - np.mean([t["cheap"] for t in taxes.values()]) / np.mean([t["dear"] for t in taxes.values()])
    assert saved.value == pytest.approx(by_hand)
    assert saved.low < saved.value < saved.high


def test_a_method_that_never_gets_safe_has_no_tax() -> None:
    many = seed_sweeps({s: _seed(s) for s in range(3)}, seed=3, n_resamples=100)
    never = many["never"]
    assert never.reached == 0 and never.strengths == (None, None, None)
    assert measured(never.tax).value is None and measured(never.tax).high is None
    assert reduction(never.tax, many["dear"].tax).value is None
    assert reduction(many["dear"].tax, never.tax).value is None
    assert measured(never.hypervolume).value > 0


def test_equal_seeds_add_no_scatter_of_their_own() -> None:
    rng = np.random.default_rng(0)
    row = np.concatenate([[0.5], 0.5 + 0.1 * rng.standard_normal(500)])
    np.testing.assert_allclose(seed_draws([row, row, row], 1), row)


def test_seed_draws_cover_what_they_say() -> None:
    """Normal seeds, no prompts: the interval is Student's, up to the bootstrap of few values."""
    rng, hits, runs = np.random.default_rng(7), 0, 400
    for _ in range(runs):
        values = rng.standard_normal(5)
        found = measured(seed_draws(np.repeat(values[:, None], 801, axis=1), 1))
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / runs <= 0.985


def test_seeds_with_other_prompts_are_refused() -> None:
    rng = np.random.default_rng(0)
    other = SeedSweepSamples(sweeps={"dear": _sweep(rng, [0.1], [0.9], n=40)}, utility_only={"task": np.ones(40)})
    with pytest.raises(DataError, match="same methods and prompts"):
        seed_sweeps({0: _seed(0), 1: other}, seed=0)
    with pytest.raises(DataError, match="training seeds"):
        seed_draws(np.zeros((0, 5)), 0)


def _models(safety: list[int], utility: list[int]) -> DriftSamples:
    def rows(counts: list[int]) -> list[list[float]]:
        return [[1.0] * k + [0.0] * (10 - k) for k in counts]

    return DriftSamples(dev_safety=rows(safety), dev_utility={"t": rows(utility)}, safety=rows(safety),
                        utility={"t": rows(utility)})  # fmt: skip


def test_drift_takes_the_safest_strength_that_keeps_the_skills() -> None:
    plain = _models([4], [9])
    sweeps = {"keeps": _models([4, 7, 10], [9, 9, 2]), "loses all": _models([10, 10], [5, 3])}
    own, found = drift_draws([1.0] * 10, plain, sweeps, seed=0, slack=0.0, n_resamples=200)
    assert own.drift[0] == pytest.approx(0.6)
    # Merging nothing (the last strength) would drift least, but its skills are gone.
    assert found["keeps"].chosen[0] == 1 and found["keeps"].drift[0] == pytest.approx(0.3)
    assert reduction(found["keeps"].drift, own.drift, least=0.1).value == pytest.approx(0.5)
    assert found["loses all"].chosen[0] == 0 and found["loses all"].utility[0] == pytest.approx(0.5)
    _, slack = drift_draws([1.0] * 10, plain, sweeps, seed=0, slack=0.75, n_resamples=10)
    assert slack["keeps"].chosen[0] == 2


def test_little_drift_has_no_reduction() -> None:
    own, found = drift_draws(
        [1.0] * 10, _models([10], [9]), {"m": _models([10], [9])}, seed=0, slack=0.0, n_resamples=50
    )
    assert reduction(found["m"].drift, own.drift, least=0.1).value is None


def test_drift_needs_the_same_tasks() -> None:
    other = DriftSamples(dev_safety=[[1.0]], dev_utility={"x": [[1.0]]}, safety=[[1.0]], utility={"x": [[1.0]]})
    with pytest.raises(DataError, match="tasks"):
        drift_draws([1.0] * 10, _models([4], [9]), {"m": other}, seed=0, slack=0.0)
