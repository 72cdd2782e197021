"""The bound against SciPy's exact test, the sequence against what it promises in a binomial world."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from sst_merge.errors import DataError, OptionError
from sst_merge.sst.risk_control import allowed_misses, fixed_sequence, least_prompts, lower_bound


@pytest.mark.parametrize(("kept", "prompts"), [(0, 5), (1, 1), (3, 10), (22, 22), (91, 96), (240, 256)])
@pytest.mark.parametrize("delta", [0.01, 0.1, 0.5])
def test_the_bound_is_scipys_exact_one_sided_one(kept: int, prompts: int, delta: float) -> None:
    expected = binomtest(kept, prompts, alternative="greater").proportion_ci(1 - delta, method="exact").low
    assert lower_bound(kept, prompts, delta) == pytest.approx(expected, abs=1e-9)


def test_at_the_bound_so_many_successes_have_probability_delta() -> None:
    assert binom.sf(91 - 1, 96, lower_bound(91, 96, 0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize(("target", "delta"), [(0.9, 0.1), (0.9, 0.05), (0.5, 0.5), (0.99, 0.01), (0.3, 0.9)])
def test_the_least_number_of_prompts_is_the_first_that_can_pass(target: float, delta: float) -> None:
    passing = [n for n in range(1, 1000) if target**n <= delta * (1 + 1e-12)]
    assert least_prompts(target, delta) == passing[0]


def test_a_power_of_the_target_is_met_exactly() -> None:
    assert least_prompts(0.5, 0.125) == 3


def test_the_numbers_of_the_design() -> None:
    assert least_prompts(0.9, 0.1) == 22
    assert allowed_misses(22, 0.9, 0.1) == 0 and allowed_misses(21, 0.9, 0.1) == -1
    assert allowed_misses(96, 0.9, 0.1) == 5


@pytest.mark.parametrize("prompts", [30, 64, 96, 200])
def test_one_miss_more_than_allowed_does_not_pass(prompts: int) -> None:
    misses = allowed_misses(prompts, 0.9, 0.1)
    bounds = [lower_bound(prompts - m, prompts, 0.1) for m in (misses, misses + 1)]
    assert bounds[0] >= 0.9 > bounds[1]


def test_a_point_is_asked_for_only_after_all_before_it_passed() -> None:
    asked = []

    def counts() -> Iterator[tuple[int, int]]:
        for kept in (64, 63, 50, 64):
            asked.append(kept)
            yield kept, 64

    found = fixed_sequence(counts(), 0.9, 0.1)
    assert asked == [64, 63, 50]
    assert [tested.accepted for tested in found] == [True, True, False]


def test_wrong_counts_and_levels_are_refused() -> None:
    with pytest.raises(DataError, match="5 successes of 4 prompts"):
        lower_bound(5, 4, 0.1)
    with pytest.raises(OptionError, match="δ = 1"):
        lower_bound(3, 4, 1.0)


@pytest.mark.parametrize("rates", [(0.99, 0.95, 0.9, 0.88, 0.7, 0.2), (0.97, 0.89, 0.95, 0.899, 0.5), (0.88,)])
def test_in_a_binomial_world_no_more_than_delta_of_the_merges_fall_below_the_target(rates: tuple[float, ...]) -> None:
    """Any accepted point below the target is a failure; rates need not fall along the path."""
    target, delta, repeats, prompts = 0.9, 0.1, 4000, 64
    rng = np.random.default_rng(0)
    failures = 0
    for drawn in rng.binomial(prompts, rates, size=(repeats, len(rates))):
        found = fixed_sequence(((int(k), prompts) for k in drawn), target, delta)
        failures += any(t.accepted and rate < target for t, rate in zip(found, rates, strict=False))
    low = binomtest(failures, repeats).proportion_ci(0.99, method="exact").low
    assert low <= delta


def test_the_bound_itself_covers_as_often_as_it_says_and_is_not_idle() -> None:
    """Over draws, P(bound > rate) ≤ δ, exactly computed; near δ somewhere, so that it is not merely careful."""
    delta, prompts = 0.1, 96
    wrong = []
    for rate in (0.8, 0.85, 0.9, 0.93, 0.95, 0.98):
        bounds = [lower_bound(k, prompts, delta) for k in range(prompts + 1)]
        wrong.append(sum(binom.pmf(k, prompts, rate) for k, bound in enumerate(bounds) if bound > rate))
    assert max(wrong) <= delta and max(wrong) > 0.6 * delta
