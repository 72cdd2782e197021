"""Strength sweeps over several training seeds: one interval for the luck of training, prompts and choice together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .resampling import Array, Measured, Row, measured, resampled_means
from .sweep_intervals import SweepDraws, SweepSamples, sweep_draws

__all__ = ["SeedSweep", "SeedSweepSamples", "reduction", "seed_draws", "seed_sweeps"]


@dataclass(frozen=True, kw_only=True)
class SeedSweepSamples:
    """All sweeps of one training seed.

    Attributes:
        sweeps: method → samples.
        utility_only: task → score of the skills without any safety patch.
        experts: task → score of the task's own adapter, or None for plain scores.
    """

    sweeps: Mapping[str, SweepSamples]
    utility_only: Mapping[str, Row]
    experts: Mapping[str, Row] | None = None


@dataclass(frozen=True, kw_only=True)
class SeedSweep:
    """One method's sweep over seeds: draws of every figure, entry 0 of the samples themselves.

    Attributes:
        seeds: how many.
        reached: in how many of them some strength reaches the threshold.
        strengths: chosen in each seed; None where none was.
        agreement: share of draws, over all seeds, that choose the seed's own strength again.
        safety: mean over seeds at the chosen strengths.
        utility: the same for utility.
        tax: mean safety tax; +∞ where a seed never gets safe.
        hypervolume: mean over seeds.
    """

    seeds: int
    reached: int
    strengths: tuple[float | None, ...]
    agreement: float
    safety: Array
    utility: Array
    tax: Array
    hypervolume: Array


def seed_draws(figures: Sequence[Array] | Array, seed: int) -> Array:
    """The mean over seeds, for the samples themselves and for every draw of seeds and prompts.

    A draw is the mean, plus what it changes by with seeds drawn with replacement (stretched to the length of Student's
    interval, as in :func:`.seeds.hierarchical_bootstrap`), plus what it changes by with prompts drawn with replacement,
    the same for all seeds. Equal seeds of the draw choose the same training seeds, so that differences and quotients of
    two methods' draws are paired. With one training seed the draws are over prompts alone.

    Args:
        figures: one row per training seed, entry 0 of the samples, the others one per draw of prompts; ±∞ and NaN
            stand for what is not defined.
        seed: of the draws of training seeds.

    Returns:
        One row of the same length; entry 0 is not finite where one of the seeds' is not.

    Raises:
        DataError: no seeds, or rows of different lengths.
    """
    rows = np.asarray(figures, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise DataError(f"seed_draws: figures of shape {rows.shape}; expected training seeds × (1 + draws)")
    means = rows.mean(axis=0)
    count = len(rows)
    if count == 1 or not np.isfinite(rows[:, 0]).all():
        return np.asarray(means)
    from scipy.stats import norm, t

    stretch = float(t.ppf(0.975, count - 1) / norm.ppf(0.975)) * math.sqrt(count / (count - 1))
    rng = np.random.default_rng(seed)
    by_seed = resampled_means(rows[:, 0][None], rng, rows.shape[1] - 1)[0, 1:] - means[0]
    means[1:] += stretch * by_seed
    return np.asarray(means)


def seed_sweeps(
    samples: Mapping[int, SeedSweepSamples], *, seed: int, threshold: float = 0.9, n_resamples: int = 2000
) -> dict[str, SeedSweep]:
    """Every method's figures over training seeds, the strength chosen anew in every seed and draw.

    Args:
        samples: training seed → sweeps; the same methods and prompts in every seed.
        seed: of the draws.
        threshold: safety to reach.
        n_resamples: how many draws.

    Returns:
        Method → figures, in the order of the first seed.

    Raises:
        DataError: no seeds, or seeds with different methods or numbers of prompts.
    """
    methods = [list(of.sweeps) for of in samples.values()]
    prompts = {_prompts(of) for of in samples.values()}
    if not methods or any(sorted(found) != sorted(methods[0]) for found in methods) or len(prompts) > 1:
        raise DataError(f"seed_sweeps: methods {methods}, numbers of prompts {sorted(prompts)}; expected at least one "
                        "seed, and the same methods and prompts in all")  # fmt: skip
    # The same seed for every training seed: they are asked the same prompts, which are drawn together.
    drawn = [
        sweep_draws(
            {name: of.sweeps[name] for name in methods[0]},
            of.utility_only,
            seed=seed,
            experts=of.experts,
            threshold=threshold,
            n_resamples=n_resamples,
        )
        for of in samples.values()
    ]
    return {name: _joined([found[name] for found in drawn], seed + 1) for name in methods[0]}


def _prompts(of: SeedSweepSamples) -> tuple[int, ...]:
    first = next(iter(of.sweeps.values()))
    dev = first.dev_safety if first.dev_safety is not None else first.safety
    return (len(first.safety[0]), len(dev[0]), *(len(row) for _, row in sorted(of.utility_only.items())))


def _joined(found: Sequence[SweepDraws], seed: int) -> SeedSweep:
    chosen = [int(d.chosen[0]) for d in found]
    return SeedSweep(
        seeds=len(found),
        reached=sum(index >= 0 for index in chosen),
        strengths=tuple(
            None if index < 0 else float(d.strengths[index]) for d, index in zip(found, chosen, strict=True)
        ),
        agreement=float(np.mean([(d.chosen[1:] == d.chosen[0]).mean() for d in found])),
        safety=seed_draws([d.safety for d in found], seed),
        utility=seed_draws([d.utility for d in found], seed),
        tax=seed_draws([d.tax for d in found], seed),
        hypervolume=seed_draws([d.volume for d in found], seed),
    )


def reduction(own: Array, other: Array, *, least: float = 0.0, level: float = 0.95) -> Measured:
    """Share of another method's tax (or drift) that a method saves: 1 − own / other, draw by draw.

    Args:
        own: draws of the method's tax, entry 0 of the samples.
        other: draws of the other's, with the same seeds and prompts.
        least: the other's smallest tax of which a share says something; at or below 0 there is nothing to save.
        level: coverage.

    Returns:
        The reduction. A draw in which the method never gets safe counts as −∞; one in which the other has nothing to
        save, or never gets safe, is undefined.
    """
    saved = np.full_like(own, np.nan)
    there = np.isfinite(other) & (other > 0) & (other >= least) & ~np.isnan(own)
    saved[there] = 1 - own[there] / other[there]
    return measured(saved, level)
