"""Intervals for what a strength sweep says: the choice of the strength is made again in every bootstrap draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .resampling import Array, Measured, Row, Rows, measured, resampled_means, sample_matrix
from .safety_tax import ROUNDING

__all__ = ["SweepDraws", "SweepEstimates", "SweepSamples", "hypervolumes", "sweep_draws", "sweep_intervals"]


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
class SweepEstimates:
    """What one sweep says, with intervals.

    Attributes:
        strength: chosen on the samples themselves; None where no strength reaches the threshold.
        agreement: share of draws that choose the same strength.
        safety: at the chosen strength, on the reported prompts.
        utility: at the chosen strength.
        tax: safety tax; a draw that never gets safe counts as +∞.
        tax_reduction: against the method named for it; None where none was named. A draw in which the method itself
            never gets safe counts as −∞, one in which the other has no tax to save is undefined.
        hypervolume: of the whole sweep.
    """

    strength: float | None
    agreement: float
    safety: Measured
    utility: Measured
    tax: Measured
    tax_reduction: Measured | None
    hypervolume: Measured


@dataclass(frozen=True)
class SweepDraws:
    """Figures of one sweep; entry 0 is of the samples themselves, the others are one bootstrap draw each.

    Attributes:
        strengths: ascending.
        chosen: index of the chosen strength, -1 where none reaches the threshold.
        safety: at the chosen strength; NaN where none was chosen.
        utility: the same for utility.
        tax: safety tax; +∞ where no strength was chosen.
        volume: hypervolume of the whole sweep.
    """

    strengths: Array
    chosen: Array
    safety: Array
    utility: Array
    tax: Array
    volume: Array


def sweep_intervals(
    sweeps: Mapping[str, SweepSamples],
    utility_only: Mapping[str, Row],
    *,
    seed: int,
    experts: Mapping[str, Row] | None = None,
    against: str | None = None,
    threshold: float = 0.9,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, SweepEstimates]:
    """Tax, tax reduction and hypervolume of several methods, with percentile bootstrap intervals.

    A draw takes prompts with replacement, the same for all strengths, all methods and the references; then it chooses
    each method's strength by the rule of :func:`.safety_tax_calculator.point_at_safety`. So the interval contains the
    luck of the choice, and differences between methods are paired. What it does not contain is the luck of training:
    for that, measure several seeds.

    Args:
        sweeps: method → samples; the same prompts in the same order for all methods.
        utility_only: task → score of the skills without any safety patch, same prompts.
        seed: of the draws.
        experts: task → score of the task's own adapter; where given, utility is the mean over tasks of the score's
            share of it, else the mean of the scores.
        against: method that tax reductions compare with.
        threshold: safety to reach.
        n_resamples: how many draws.
        level: coverage.

    Returns:
        Method → estimates, in the order given.

    Raises:
        DataError: no methods, shapes or tasks that do not fit, an expert that scores nothing, or an unknown method in
            `against`.
    """
    if not sweeps or (against is not None and against not in sweeps):
        raise DataError(f"sweep_intervals: against = {against!r} of methods {sorted(sweeps)}; expected at least one "
                        "method, and one of them to compare with")  # fmt: skip
    draws = sweep_draws(sweeps, utility_only, seed=seed, experts=experts, threshold=threshold, n_resamples=n_resamples)
    other = None if against is None else draws[against]
    return {name: _estimates(draws[name], other, level) for name in sweeps}


def sweep_draws(
    sweeps: Mapping[str, SweepSamples],
    utility_only: Mapping[str, Row],
    *,
    seed: int,
    experts: Mapping[str, Row] | None = None,
    threshold: float = 0.9,
    n_resamples: int = 2000,
) -> dict[str, SweepDraws]:
    """The bootstrap draws behind :func:`sweep_intervals`; equal seeds and prompts draw the same prompts.

    Args:
        sweeps: method → samples; the same prompts in the same order for all methods.
        utility_only: task → score of the skills without any safety patch, same prompts.
        seed: of the draws.
        experts: task → score of the task's own adapter, or None for plain scores.
        threshold: safety to reach.
        n_resamples: how many draws.

    Returns:
        Method → figures of the samples and of every draw.

    Raises:
        DataError: as :func:`sweep_intervals`.
    """
    rng = np.random.default_rng(seed)
    orders = {name: _order(name, sweep.strengths) for name, sweep in sweeps.items()}
    safety = _safeties({name: sweep.safety for name, sweep in sweeps.items()}, orders, rng, n_resamples, "safety")
    utility, reference = _utilities(sweeps, orders, utility_only, experts, rng, n_resamples)
    with_dev = {name: sweep.dev_safety for name, sweep in sweeps.items() if sweep.dev_safety is not None}
    if with_dev and len(with_dev) < len(sweeps):
        raise DataError(f"sweep_intervals: only {sorted(with_dev)} have dev prompts; expected all methods or none")
    dev = _safeties(with_dev, orders, rng, n_resamples, "dev_safety") if with_dev else safety
    strengths = {name: np.sort(np.asarray(sweep.strengths, float)) for name, sweep in sweeps.items()}
    return {
        name: _choose(strengths[name], dev[name], safety[name], utility[name], reference, threshold) for name in sweeps
    }


def _order(name: str, strengths: Sequence[float]) -> list[int]:
    if not len(strengths) or len(set(strengths)) < len(strengths):
        raise DataError(f"{name}: strengths {list(strengths)}; expected at least one, all different")
    return sorted(range(len(strengths)), key=lambda i: strengths[i])


def _joint_means(
    entries: Sequence[tuple[str, Rows, list[int]]],
    rng: np.random.Generator,
    n_resamples: int,
) -> list[Array]:
    """Means of each entry's rows in the order given with it: of the samples in column 0, then of every draw.

    Raises:
        DataError: another number of rows than the order has, or different numbers of prompts.
    """
    matrices = [sample_matrix(rows, label) for label, rows, _ in entries]
    for (label, _, order), matrix in zip(entries, matrices, strict=True):
        if len(matrix) != len(order):
            raise DataError(f"{label}: {len(matrix)} rows of scores; expected {len(order)}, one per strength")
    prompts = {label: matrix.shape[1] for (label, _, _), matrix in zip(entries, matrices, strict=True)}
    if len(set(prompts.values())) > 1:
        raise DataError(f"numbers of prompts: {prompts}; expected the same prompts for all, to draw them jointly")
    stacked = np.concatenate([matrix[order] for matrix, (_, _, order) in zip(matrices, entries, strict=True)])
    means = resampled_means(stacked, rng, n_resamples)
    return np.split(means, np.cumsum([len(matrix) for matrix in matrices])[:-1])


def _safeties(
    samples: Mapping[str, Rows],
    orders: Mapping[str, list[int]],
    rng: np.random.Generator,
    n_resamples: int,
    what: str,
) -> dict[str, Array]:
    entries = [(f"{what} of {name}", rows, orders[name]) for name, rows in samples.items()]
    return dict(zip(samples, _joint_means(entries, rng, n_resamples), strict=True))


def _utilities(
    sweeps: Mapping[str, SweepSamples],
    orders: Mapping[str, list[int]],
    utility_only: Mapping[str, Row],
    experts: Mapping[str, Row] | None,
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[dict[str, Array], Array]:
    """Mean over tasks: method → strengths × (1 + draws), and of the skills alone.

    Raises:
        DataError: different tasks, or an expert that scores nothing.
    """
    tasks = sorted(utility_only)
    named = {name: sorted(sweep.utility) for name, sweep in sweeps.items()}
    if experts is not None:
        named["experts"] = sorted(experts)
    wrong = [name for name, found in named.items() if found != tasks]
    if not tasks or wrong:
        raise DataError(f"sweep_intervals: tasks {tasks} of utility_only, others in {wrong}; expected the same for "
                        "all, at least one")  # fmt: skip
    totals: dict[str, Array] = {}
    alone = np.zeros(1 + n_resamples)
    for task in tasks:
        entries = [(f"utility of {n} on {task}", sweep.utility[task], orders[n]) for n, sweep in sweeps.items()]
        entries.append((f"utility_only on {task}", sample_matrix([utility_only[task]], f"utility_only on {task}"), [0]))
        if experts is not None:
            entries.append((f"expert of {task}", sample_matrix([experts[task]], f"expert of {task}"), [0]))
        means = _joint_means(entries, rng, n_resamples)
        expert = means[-1][0] if experts is not None else np.ones(1 + n_resamples)
        if not expert[0] > 0:
            raise DataError(f"sweep_intervals: the expert of {task} scores nothing, so nothing can be retained")
        # A draw without any success of the expert has no share; it is left out as undefined.
        expert = np.where(expert > 0, expert, np.nan)
        alone += means[len(sweeps)][0] / expert / len(tasks)
        for name, scores in zip(sweeps, means, strict=False):
            totals[name] = totals.get(name, 0.0) + scores / expert / len(tasks)
    return totals, alone


def _choose(
    strengths: Array, dev: Array, safety: Array, utility: Array, reference: Array, threshold: float
) -> SweepDraws:
    reached = dev >= threshold - ROUNDING
    ever = reached.any(axis=0)
    first = reached.argmax(axis=0)
    columns = np.arange(dev.shape[1])
    at = np.where(ever, utility[first, columns], np.nan)
    return SweepDraws(
        strengths=strengths,
        chosen=np.where(ever, first, -1).astype(float),
        safety=np.where(ever, safety[first, columns], np.nan),
        utility=at,
        tax=np.where(ever, reference - at, np.inf),
        volume=hypervolumes(safety, utility),
    )


def hypervolumes(safety: Array, utility: Array) -> Array:
    """:func:`.front.hypervolume` of many fronts at once.

    Args:
        safety: points × fronts.
        utility: points × fronts.

    Returns:
        One area per front; NaN where a coordinate is.
    """
    order = np.argsort(-safety, axis=0, kind="stable")
    across = np.clip(np.take_along_axis(safety, order, axis=0), 0, None)
    reached = np.maximum.accumulate(np.clip(np.take_along_axis(utility, order, axis=0), 0, None), axis=0)
    gained = np.diff(reached, axis=0, prepend=np.zeros((1, reached.shape[1])))
    return np.asarray((across * gained).sum(axis=0))


def _estimates(own: SweepDraws, other: SweepDraws | None, level: float) -> SweepEstimates:
    reduction = None
    if other is not None:
        saved = np.full_like(own.tax, np.nan)
        has_tax = np.isfinite(other.tax) & (other.tax > 0)
        saved[has_tax] = 1 - own.tax[has_tax] / other.tax[has_tax]
        reduction = measured(saved, level)
    chosen = int(own.chosen[0])
    return SweepEstimates(
        strength=None if chosen < 0 else float(own.strengths[chosen]),
        agreement=float((own.chosen[1:] == chosen).mean()),
        safety=measured(own.safety, level),
        utility=measured(own.utility, level),
        tax=measured(own.tax, level),
        tax_reduction=reduction,
        hypervolume=measured(own.volume, level),
    )
