"""Alignment drift of a method that is swept: the safest strength that keeps the skills, chosen again in every draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .resampling import Array, Row, Rows, resampled_means, sample_matrix
from .safety_tax import ROUNDING

__all__ = ["DriftDraws", "DriftSamples", "drift_draws"]


@dataclass(frozen=True, kw_only=True)
class DriftSamples:
    """One model, or one method's sweep, prompt by prompt.

    Attributes:
        dev_safety: refusal of dev prompts, models × prompts.
        dev_utility: task → scores of dev prompts, models × prompts.
        safety: refusal of test prompts, models × prompts.
        utility: task → scores of test prompts, models × prompts.
    """

    dev_safety: Rows
    dev_utility: Mapping[str, Rows]
    safety: Rows
    utility: Mapping[str, Rows]


@dataclass(frozen=True)
class DriftDraws:
    """Figures of one sweep at the chosen strength; entry 0 of the samples themselves, then one per draw.

    Attributes:
        chosen: index of the strength.
        drift: safety before less safety after, on test prompts.
        utility: mean over tasks, on test prompts.
    """

    chosen: Array
    drift: Array
    utility: Array


def drift_draws(
    before: Row,
    plain: DriftSamples,
    methods: Mapping[str, DriftSamples],
    *,
    seed: int,
    slack: float,
    n_resamples: int = 2000,
) -> tuple[DriftDraws, dict[str, DriftDraws]]:
    """Drift of plain merging and of every method.

    Of a method's strengths the one with the highest dev safety is taken among those whose dev utility is at least
    plain merging's less `slack`; where there is none, the one with the highest dev utility. So no method wins by not
    merging.

    Args:
        before: refusal of test prompts by the aligned base.
        plain: plain merging, one model.
        methods: method → its sweep, same prompts.
        seed: of the draws of prompts.
        slack: utility that may be lost against plain merging.
        n_resamples: how many draws.

    Returns:
        Plain merging's figures, and method → figures.

    Raises:
        DataError: prompts or tasks that do not fit.
    """
    everyone = {"": plain, **methods}
    tasks = sorted(plain.dev_utility)
    wrong = [name for name, of in methods.items() if sorted(of.dev_utility) != tasks or sorted(of.utility) != tasks]
    if not tasks or wrong:
        raise DataError(f"drift_draws: tasks {tasks} of plain merging, others in {wrong}; expected the same, at least "
                        "one")  # fmt: skip
    rng = np.random.default_rng(seed)
    dev_safety = _means({name: of.dev_safety for name, of in everyone.items()}, rng, n_resamples)
    dev_utility = _mean_over([{n: of.dev_utility[t] for n, of in everyone.items()} for t in tasks], rng, n_resamples)
    safety = _means({"before": [before], **{name: of.safety for name, of in everyone.items()}}, rng, n_resamples)
    utility = _mean_over([{name: of.utility[t] for name, of in everyone.items()} for t in tasks], rng, n_resamples)
    start, least = safety["before"][0], dev_utility[""][0] - slack - ROUNDING
    columns = np.arange(len(start))
    found = {}
    for name in everyone:
        keeps = dev_utility[name] >= least
        safest = np.where(keeps, dev_safety[name], -np.inf).argmax(axis=0)
        chosen = np.where(keeps.any(axis=0), safest, dev_utility[name].argmax(axis=0))
        found[name] = DriftDraws(
            chosen.astype(float), start - safety[name][chosen, columns], utility[name][chosen, columns]
        )
    return found.pop(""), found


def _mean_over(tasks: Sequence[Mapping[str, Rows]], rng: np.random.Generator, n_resamples: int) -> dict[str, Array]:
    drawn = [_means(rows, rng, n_resamples) for rows in tasks]
    return {name: np.asarray(np.mean([means[name] for means in drawn], axis=0)) for name in drawn[0]}


def _means(rows: Mapping[str, Rows], rng: np.random.Generator, n_resamples: int) -> dict[str, Array]:
    """Means of everybody's rows over prompts that are drawn together.

    Raises:
        DataError: different numbers of prompts.
    """
    matrices = {name: sample_matrix(found, f"drift_draws, {name or 'plain merging'}") for name, found in rows.items()}
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if len(set(widths.values())) > 1:
        raise DataError(f"drift_draws: numbers of prompts {widths}; expected the same prompts for all")
    means = resampled_means(np.concatenate(list(matrices.values())), rng, n_resamples)
    return dict(zip(matrices, np.split(means, np.cumsum([len(m) for m in matrices.values()])[:-1]), strict=True))
