"""Strength sweeps at matched safety, over training seeds: the strength is chosen again in every bootstrap draw.

Scores → :class:`SweepDraws` (one seed) → :class:`MatchedSweep` (a strength chosen) → :class:`SeedSweep` (over seeds).
Any function of a `MatchedSweep` that gives one number per draw is a figure: ``seed_sweep.figure(function)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError
from .figure import Figure
from .front import hypervolumes
from .resampling import Array, Row, Rows, figure_of, joint_means, seed_draws
from .safety_tax import ROUNDING

__all__ = ["MatchedSweep", "SeedSamples", "SeedSweep", "SweepDraws", "SweepSamples", "seed_sweeps", "sweep_draws"]


@dataclass(frozen=True, kw_only=True)
class SweepSamples:
    """One method's sweep, sample by sample.

    Attributes:
        strengths: of the knob, one per model, all different.
        safety: refusal of harmful prompts, models × prompts.
        utility: task → score, models × prompts of the task.
        dev_safety: refusal of the prompts that the strength is chosen on; None chooses on `safety` itself.
    """

    strengths: Sequence[float]
    safety: Rows
    utility: Mapping[str, Rows]
    dev_safety: Rows | None = None


@dataclass(frozen=True, kw_only=True)
class SeedSamples:
    """All sweeps of one training seed, on the same prompts in the same order.

    Attributes:
        sweeps: method → samples.
        utility_only: task → score of the skills without any safety patch.
        experts: task → score of the task's own adapter; where given, utility is the mean over tasks of the score's
            share of it, else the mean of the scores.
    """

    sweeps: Mapping[str, SweepSamples]
    utility_only: Mapping[str, Row]
    experts: Mapping[str, Row] | None = None


@dataclass(frozen=True, kw_only=True)
class SweepDraws:
    """Rates of one sweep; column 0 is of the samples themselves, the others are one bootstrap draw each.

    Attributes:
        strengths: ascending.
        dev_safety: strengths × (1 + draws), what the strength is chosen on.
        safety: the same on reported prompts.
        utility: mean over tasks, the same shape.
        utility_only: mean over tasks of the skills without any safety patch, one entry per draw.
    """

    strengths: Array
    dev_safety: Array
    safety: Array
    utility: Array
    utility_only: Array

    @cached_property
    def hypervolume(self) -> Array:
        """Area that the whole sweep covers, one entry per draw."""
        return hypervolumes(self.safety, self.utility)

    def at_safety(self, threshold: float) -> "MatchedSweep":
        """Choose the smallest strength that is safe enough, anew in every draw.

        Args:
            threshold: dev safety to reach.

        Returns:
            The sweep with that choice.
        """
        reached = self.dev_safety >= threshold - ROUNDING
        return MatchedSweep(self, np.where(reached.any(axis=0), reached.argmax(axis=0), -1))


@dataclass(frozen=True)
class MatchedSweep:
    """A sweep with the strength that was chosen in every draw. Each method is a figure: one entry per draw.

    Attributes:
        curve: the whole sweep.
        chosen: index of the strength, -1 where none is safe enough.
    """

    curve: SweepDraws
    chosen: np.ndarray[tuple[int], np.dtype[np.int_]]

    @property
    def strength(self) -> float | None:
        """Chosen on the samples themselves; None where no strength is safe enough."""
        return None if self.chosen[0] < 0 else float(self.curve.strengths[self.chosen[0]])

    def safety(self) -> Array:
        """On reported prompts at the chosen strength; NaN where none was chosen."""
        return self._at(self.curve.safety)

    def utility(self) -> Array:
        """At the chosen strength; NaN where none was chosen."""
        return self._at(self.curve.utility)

    def tax(self) -> Array:
        """Utility that the skills alone have and the chosen strength has not; +∞ where none was chosen."""
        return np.where(self.chosen < 0, np.inf, self.curve.utility_only - self.utility())

    def hypervolume(self) -> Array:
        """Of the whole sweep, whatever was chosen."""
        return self.curve.hypervolume

    def _at(self, rates: Array) -> Array:
        return np.where(self.chosen < 0, np.nan, rates[self.chosen, np.arange(len(self.chosen))])


Measure = Callable[[MatchedSweep], Array]


@dataclass(frozen=True)
class SeedSweep:
    """One method's sweeps at matched safety, one a training seed.

    Attributes:
        by_seed: in the order of the seeds.
        seed: of the draws of training seeds; the same for all methods that are compared.
    """

    by_seed: tuple[MatchedSweep, ...]
    seed: int

    def draws(self, measure: Measure) -> Array:
        """The mean of a figure over training seeds, see :func:`.resampling.seed_draws`.

        Args:
            measure: such as ``MatchedSweep.tax``.

        Returns:
            Of the samples themselves, then one entry per draw of seeds and prompts.
        """
        return seed_draws([measure(sweep) for sweep in self.by_seed], self.seed)

    def figure(self, measure: Measure) -> Figure | None:
        """A figure over training seeds, with its interval.

        Args:
            measure: such as ``MatchedSweep.tax``.

        Returns:
            The figure; None where it is not defined in one of the seeds.
        """
        return figure_of(self.draws(measure), self.seeds)

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.by_seed)

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """Chosen in each seed; None where no strength is safe enough."""
        return tuple(sweep.strength for sweep in self.by_seed)

    @property
    def reached(self) -> int:
        """In how many seeds some strength is safe enough."""
        return sum(strength is not None for strength in self.strengths)

    @property
    def agreement(self) -> float:
        """Share of draws, over all seeds, that choose the seed's own strength again."""
        return float(np.mean([(sweep.chosen[1:] == sweep.chosen[0]).mean() for sweep in self.by_seed]))


def seed_sweeps(
    samples: Mapping[int, SeedSamples], thresholds: Sequence[float], *, seed: int, n_resamples: int = 2000
) -> dict[float, dict[str, SeedSweep]]:
    """Every method at matched safety over training seeds, the strength chosen anew in every seed and draw.

    A draw takes prompts with replacement, the same for all strengths, methods, seeds and the references. So the
    intervals contain the luck of the choice, of the prompts and of training, and differences between methods are
    paired. The rule of the choice is :func:`.safety_tax.point_at_safety`'s.

    Args:
        samples: training seed → sweeps; the same methods and prompts in every seed.
        thresholds: safety to reach.
        seed: of the draws.
        n_resamples: how many draws.

    Returns:
        Threshold → method → sweep, methods in the order of the first seed.

    Raises:
        DataError: no seeds or methods, or seeds with different methods or numbers of prompts.
    """
    methods = [sorted(of.sweeps) for of in samples.values()]
    prompts = {_prompts(of) for of in samples.values()}
    if not methods or not methods[0] or any(found != methods[0] for found in methods) or len(prompts) > 1:
        raise DataError(
            f"seed_sweeps: methods {methods}, numbers of prompts {sorted(prompts)}; expected at least one seed and "
            "method, and the same methods and prompts in all seeds"
        )
    # The same seed for every training seed: they are asked the same prompts, which are drawn together.
    drawn = [sweep_draws(of, seed=seed, n_resamples=n_resamples) for of in samples.values()]
    return {
        threshold: {
            name: SeedSweep(tuple(found[name].at_safety(threshold) for found in drawn), seed + 1) for name in drawn[0]
        }
        for threshold in thresholds
    }


def _prompts(of: SeedSamples) -> tuple[int, ...]:
    first = next(iter(of.sweeps.values()), None)
    if first is None:
        return ()
    dev = first.dev_safety if first.dev_safety is not None else first.safety
    return (len(first.safety[0]), len(dev[0]), *(len(row) for _, row in sorted(of.utility_only.items())))


def sweep_draws(samples: SeedSamples, *, seed: int, n_resamples: int = 2000) -> dict[str, SweepDraws]:
    """The bootstrap draws of one training seed's sweeps; equal seeds and prompts draw the same prompts.

    Args:
        samples: of all methods.
        seed: of the draws.
        n_resamples: how many draws.

    Returns:
        Method → rates of the samples and of every draw, in the order given.

    Raises:
        DataError: strengths, shapes or tasks that do not fit, or an expert that scores nothing.
    """
    sweeps = samples.sweeps
    rng = np.random.default_rng(seed)
    orders = {name: _order(name, sweep.strengths) for name, sweep in sweeps.items()}
    safety = _ordered({name: sweep.safety for name, sweep in sweeps.items()}, "safety", orders, rng, n_resamples)
    utility, utility_only = _utilities(samples, orders, rng, n_resamples)
    with_dev = {name: sweep.dev_safety for name, sweep in sweeps.items() if sweep.dev_safety is not None}
    if with_dev and len(with_dev) < len(sweeps):
        raise DataError(f"sweep_draws: only {sorted(with_dev)} have dev prompts; expected all methods or none")
    dev = _ordered(with_dev, "dev safety", orders, rng, n_resamples) if with_dev else safety
    return {
        name: SweepDraws(
            strengths=np.sort(np.asarray(sweep.strengths, float)),
            dev_safety=dev[name],
            safety=safety[name],
            utility=utility[name],
            utility_only=utility_only,
        )
        for name, sweep in sweeps.items()
    }


def _order(name: str, strengths: Sequence[float]) -> list[int]:
    if not len(strengths) or len(set(strengths)) < len(strengths):
        raise DataError(f"{name}: strengths {list(strengths)}; expected at least one, all different")
    return sorted(range(len(strengths)), key=lambda i: strengths[i])


def _ordered(
    rows: Mapping[str, Rows], what: str, orders: Mapping[str, list[int]], rng: np.random.Generator, n_resamples: int
) -> dict[str, Array]:
    """Means by ascending strength: method → strengths × (1 + draws).

    Raises:
        DataError: another number of rows than there are strengths.
    """
    for name, found in rows.items():
        if len(found) != len(orders[name]):
            raise DataError(
                f"{what}, {name}: {len(found)} rows of scores; expected {len(orders[name])}, one per strength"
            )
    return {name: means[orders[name]] for name, means in joint_means(rows, what, rng, n_resamples).items()}


def _utilities(
    samples: SeedSamples, orders: Mapping[str, list[int]], rng: np.random.Generator, n_resamples: int
) -> tuple[dict[str, Array], Array]:
    """Mean over tasks: method → strengths × (1 + draws), and of the skills alone.

    Raises:
        DataError: different tasks, or an expert that scores nothing.
    """
    sweeps, experts = samples.sweeps, samples.experts
    tasks = sorted(samples.utility_only)
    named = {name: sorted(sweep.utility) for name, sweep in sweeps.items()}
    if experts is not None:
        named["experts"] = sorted(experts)
    wrong = [name for name, found in named.items() if found != tasks]
    if not tasks or wrong:
        raise DataError(
            f"sweep_draws: tasks {tasks} of utility_only, others in {wrong}; expected the same for all, at least one"
        )
    totals: dict[str, Array] = {}
    alone = np.zeros(1 + n_resamples)
    order_of = {f"sweep of {name}": order for name, order in orders.items()} | {"skills alone": [0], "expert": [0]}
    for task in tasks:
        rows: dict[str, Rows] = {f"sweep of {name}": sweep.utility[task] for name, sweep in sweeps.items()}
        rows["skills alone"] = [samples.utility_only[task]]
        if experts is not None:
            rows["expert"] = [experts[task]]
        means = _ordered(rows, f"utility on {task}", order_of, rng, n_resamples)
        whole = means["expert"][0] if experts is not None else np.ones(1 + n_resamples)
        if not whole[0] > 0:
            raise DataError(f"sweep_draws: the expert of {task} scores nothing, so nothing can be retained")
        # A draw without any success of the expert has no share; it is left out as undefined.
        whole = np.where(whole > 0, whole, np.nan)
        alone += means["skills alone"][0] / whole / len(tasks)
        for name in sweeps:
            totals[name] = totals.get(name, 0.0) + means[f"sweep of {name}"] / whole / len(tasks)
    return totals, alone
