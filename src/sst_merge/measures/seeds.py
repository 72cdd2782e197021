"""Several training seeds: a rate over seeds, and the difference of two methods over seeds and prompts."""

import math
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .figure import Figure
from .intervals import seed_interval, wilson_interval
from .resampling import Rows, resampled_means, sample_matrix

__all__ = ["hierarchical_bootstrap", "seed_rate_interval"]


def seed_rate_interval(counts: Sequence[tuple[int, int]], level: float = 0.95) -> Figure:
    """Mean rate over seeds with an interval that stays within [0, 1].

    Student's t-interval on the logit scale, each seed's rate taken as (k + ½) / (n + 1) there so that 0 and 1 have a
    logit (Haldane 1956), widened where needed to contain Wilson's interval of the pooled counts: seeds that agree by
    luck do not know more than their prompts. Chosen by simulation over 3 to 8 seeds and rates from 0.02 to 0.99
    (tests): the t-interval on the rates, clipped to [0, 1], falls to 90 % coverage at skewed rates; this one stays
    above 92 %.

    Args:
        counts: (successes, trials) of each seed, at least 2 seeds.
        level: coverage.

    Returns:
        Mean of the seeds' rates, and its interval.

    Raises:
        DataError: fewer than 2 seeds, or counts that are not 0 ≤ k ≤ n with n ≥ 1.
    """
    if len(counts) < 2 or not all(0 <= k <= n and n >= 1 for k, n in counts):
        raise DataError(
            f"seed_rate_interval: counts {list(counts)}; expected (k, n) with 0 ≤ k ≤ n and n ≥ 1 for at least 2 seeds"
        )
    mean = math.fsum(k / n for k, n in counts) / len(counts)
    logits = seed_interval([math.log((k + 0.5) / (n - k + 0.5)) for k, n in counts], level)
    pooled = wilson_interval(sum(k for k, _ in counts), sum(n for _, n in counts), level)
    low, high = min(mean, _expit(logits.low), pooled[0]), max(mean, _expit(logits.high), pooled[1])
    return Figure(mean, low, high, sum(n for _, n in counts))


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


def hierarchical_bootstrap(
    a: Rows,
    b: Rows,
    *,
    seed: int,
    n_resamples: int = 10_000,
    level: float = 0.95,
) -> Figure:
    """Mean difference a − b of two methods over training seeds and prompts, by a paired bootstrap of both levels.

    Two methods are paired at both levels: the same seed means the same experts to merge, the same column the same
    prompt. A draw is the mean plus what it changes by with seeds drawn with replacement, plus what it changes by with
    prompts drawn with replacement. Drawing only 5 seeds understates how much they scatter, so the seeds' part is
    stretched by t_{S−1} / z · √(S / (S−1)) to the length of Student's interval (Hesterberg 2015); drawing the cells
    of both levels at once and stretching the whole covers 99 to 100 % where 95 % was asked for.

    Every seed is asked the same prompts. Where each has its own, the prompts' luck is in the seeds' means already: use
    :func:`.intervals.seed_interval` on the differences per seed.

    Args:
        a: scores of the first method, training seeds × prompts.
        b: the same of the second.
        seed: of the draws.
        n_resamples: how many draws.
        level: coverage.

    Returns:
        The difference and its interval, in the scores' units.

    Raises:
        DataError: different shapes, fewer than 2 seeds, no prompts, scores that are not finite, no draws, or a level
            outside (0, 1).
    """
    from scipy.stats import norm, t

    first, second = sample_matrix(a, "hierarchical_bootstrap"), sample_matrix(b, "hierarchical_bootstrap")
    if first.shape != second.shape or len(first) < 2:
        raise DataError(f"hierarchical_bootstrap: scores of shapes {first.shape} and {second.shape}; expected the same "
                        "training seeds × prompts for both methods, at least 2 seeds")  # fmt: skip
    if not 0 < level < 1:
        raise DataError(f"hierarchical_bootstrap: level = {level}; expected a coverage between 0 and 1")
    differences = first - second
    seeds = len(differences)
    upper = (1 + level) / 2
    stretch = float(t.ppf(upper, seeds - 1) / norm.ppf(upper)) * math.sqrt(seeds / (seeds - 1))
    rng = np.random.default_rng(seed)
    mean = float(differences.mean())
    by_seed = resampled_means(differences.mean(axis=1)[None], rng, n_resamples)[0, 1:] - mean
    by_prompt = resampled_means(differences.mean(axis=0)[None], rng, n_resamples)[0, 1:] - mean
    low, high = np.percentile(mean + stretch * by_seed + by_prompt, (100 * (1 - upper), 100 * upper))
    return Figure(mean, float(low), float(high), differences.size)
