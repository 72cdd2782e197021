"""Sweeps and drift over training seeds: values by hand, intervals against the single-seed ones they are made of."""

import numpy as np
import pytest

from sst_merge.errors import DataError
from sst_merge.measures.drift import DriftSamples, drift_draws
from sst_merge.measures.resampling import figure_of, reduction, seed_draws
from sst_merge.measures.sweeps import MatchedSweep, SeedSamples, SweepSamples, seed_sweeps, sweep_draws


def _sweep(rng: np.random.Generator, safety: list[float], utility: list[float], n: int = 80) -> SweepSamples:
    return SweepSamples(
        strengths=range(len(safety)),
        safety=(rng.random((len(safety), n)) < np.array(safety)[:, None]).astype(float),
        utility={"task": (rng.random((len(utility), n)) < np.array(utility)[:, None]).astype(float)},
        dev_safety=(rng.random((len(safety), n)) < np.array(safety)[:, None]).astype(float),
    )


def _seed(number: int, cheap: float = 0.9) -> SeedSamples:
    rng = np.random.default_rng(number)
    return SeedSamples(
        sweeps={"dear": _sweep(rng, [0.1, 0.6, 1.0], [0.95, 0.8, 0.5]),
                "cheap": _sweep(rng, [0.2, 0.99, 1.0], [0.95, cheap, 0.7]),
                "never": _sweep(rng, [0.0, 0.1, 0.2], [0.9, 0.9, 0.9])},
        utility_only={"task": (rng.random(80) < 0.97).astype(float)},
        experts={"task": np.ones(80)},
    )  # fmt: skip


def _tax(of: SeedSamples, name: str, seed: int) -> np.ndarray:
    return sweep_draws(of, seed=seed, n_resamples=10)[name].at_safety(0.9).tax()


def test_one_seed_is_the_sweep_itself() -> None:
    of = _seed(1)
    many = seed_sweeps({0: of}, [0.9], seed=5, n_resamples=300)[0.9]
    one = {name: drawn.at_safety(0.9) for name, drawn in sweep_draws(of, seed=5, n_resamples=300).items()}
    for name, found in many.items():
        for measure in (MatchedSweep.safety, MatchedSweep.utility, MatchedSweep.tax, MatchedSweep.hypervolume):
            np.testing.assert_array_equal(found.draws(measure), measure(one[name]))
        assert found.agreement == (one[name].chosen[1:] == one[name].chosen[0]).mean()
        assert found.seeds == 1


def test_several_seeds_give_the_mean_and_an_interval_that_knows_their_scatter() -> None:
    seeds = {s: _seed(s, cheap) for s, cheap in enumerate((0.95, 0.7, 0.9, 0.6, 0.85))}
    many = seed_sweeps(seeds, [0.9], seed=3, n_resamples=1000)[0.9]
    taxes = {name: np.mean([_tax(of, name, 3)[0] for of in seeds.values()]) for name in ("cheap", "dear")}
    cheap = many["cheap"].figure(MatchedSweep.tax)
    assert cheap.value == pytest.approx(taxes["cheap"])
    assert cheap.n == 5
    prompts_alone = np.mean([of.tax() for of in many["cheap"].by_seed], axis=0)
    assert cheap.high - cheap.low > np.diff(np.percentile(prompts_alone[1:], (2.5, 97.5))) > 0
    assert cheap.high - cheap.low > 0.1
    draws = {name: of.draws(MatchedSweep.tax) for name, of in many.items()}
    saved = reduction(draws["cheap"], draws["dear"], 5)
    assert saved.value == pytest.approx(1 - taxes["cheap"] / taxes["dear"])
    assert saved.low < saved.value < saved.high


def test_a_method_that_never_gets_safe_has_no_tax() -> None:
    many = seed_sweeps({s: _seed(s) for s in range(3)}, [0.9], seed=3, n_resamples=100)[0.9]
    never = many["never"]
    assert never.reached == 0 and never.strengths == (None, None, None)
    assert never.figure(MatchedSweep.tax) is None
    own, other = (many[name].draws(MatchedSweep.tax) for name in ("never", "dear"))
    assert reduction(own, other, 3) is None
    assert reduction(other, own, 3) is None
    assert never.figure(MatchedSweep.hypervolume).value > 0


def test_equal_seeds_add_no_scatter_of_their_own() -> None:
    rng = np.random.default_rng(0)
    row = np.concatenate([[0.5], 0.5 + 0.1 * rng.standard_normal(500)])
    np.testing.assert_allclose(seed_draws([row, row, row], 1), row)


def test_seed_draws_cover_what_they_say() -> None:
    """Normal seeds, no prompts: the interval is Student's, up to the bootstrap of few values."""
    rng, hits, runs = np.random.default_rng(7), 0, 400
    for _ in range(runs):
        values = rng.standard_normal(5)
        found = figure_of(seed_draws(np.repeat(values[:, None], 801, axis=1), 1), 5)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / runs <= 0.985


def test_seeds_with_other_prompts_are_refused() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        SeedSamples(sweeps={"dear": _sweep(rng, [0.1], [0.9], n=n)}, utility_only={"task": np.ones(n)})
        for n in (80, 40)
    )
    for second in (one, other):
        with pytest.raises(DataError, match="same methods and prompts"):
            seed_sweeps({0: _seed(0), 1: second}, [0.9], seed=0)
    with pytest.raises(DataError, match="same methods and prompts"):
        seed_sweeps({0: one, 1: other}, [0.9], seed=0)
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
    assert reduction(found["keeps"].drift, own.drift, 1, least=0.1).value == pytest.approx(0.5)
    assert found["loses all"].chosen[0] == 0 and found["loses all"].utility[0] == pytest.approx(0.5)
    _, slack = drift_draws([1.0] * 10, plain, sweeps, seed=0, slack=0.75, n_resamples=10)
    assert slack["keeps"].chosen[0] == 2


def test_little_drift_has_no_reduction() -> None:
    own, found = drift_draws(
        [1.0] * 10, _models([10], [9]), {"m": _models([10], [9])}, seed=0, slack=0.0, n_resamples=50
    )
    assert reduction(found["m"].drift, own.drift, 1, least=0.1) is None


def test_drift_needs_the_same_tasks() -> None:
    other = DriftSamples(dev_safety=[[1.0]], dev_utility={"x": [[1.0]]}, safety=[[1.0]], utility={"x": [[1.0]]})
    with pytest.raises(DataError, match="tasks"):
        drift_draws([1.0] * 10, _models([4], [9]), {"m": other}, seed=0, slack=0.0)
