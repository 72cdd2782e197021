"""Alignment drift of a method that is swept: the safest strength that keeps the skills, chosen again in every draw."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .resampling import Array, Row, Rows, joint_means
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
    everyone = {"plain merging": plain} | {f"method {name}": of for name, of in methods.items()}
    tasks = sorted(plain.dev_utility)
    wrong = [name for name, of in everyone.items() if sorted(of.dev_utility) != tasks or sorted(of.utility) != tasks]
    if not tasks or wrong:
        raise DataError(
            f"drift_draws: tasks {tasks} of plain merging, others in {wrong}; expected the same, at least one"
        )
    rng = np.random.default_rng(seed)

    def means(rows: Mapping[str, Rows], what: str) -> dict[str, Array]:
        return joint_means(rows, f"drift_draws, {what}", rng, n_resamples)

    def utility(of: Mapping[str, Mapping[str, Rows]], what: str) -> dict[str, Array]:
        drawn = [means({name: rows[task] for name, rows in of.items()}, f"{what} on {task}") for task in tasks]
        return {name: np.asarray(np.mean([scores[name] for scores in drawn], axis=0)) for name in of}

    dev_safety = means({name: of.dev_safety for name, of in everyone.items()}, "dev safety")
    dev_utility = utility({name: of.dev_utility for name, of in everyone.items()}, "dev utility")
    safety = means({"base": [before]} | {name: of.safety for name, of in everyone.items()}, "safety")
    kept = utility({name: of.utility for name, of in everyone.items()}, "utility")
    start, least = safety["base"][0], dev_utility["plain merging"][0] - slack - ROUNDING
    columns = np.arange(len(start))
    found = []
    for name in everyone:
        keeps = dev_utility[name] >= least
        safest = np.where(keeps, dev_safety[name], -np.inf).argmax(axis=0)
        chosen = np.where(keeps.any(axis=0), safest, dev_utility[name].argmax(axis=0))
        found.append(
            DriftDraws(chosen.astype(float), start - safety[name][chosen, columns], kept[name][chosen, columns])
        )
    return found[0], dict(zip(methods, found[1:], strict=True))
