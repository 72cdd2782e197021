"""Retention of many experts in one merge, with bootstrap draws from per-sample scores."""

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from ..errors import DataError
from .resampling import Array, Row, joint_means

__all__ = ["retention_draws", "together_draws"]

_EXPERT = "expert"


def retention_draws(
    merged: Mapping[str, Mapping[str, Row]], experts: Mapping[str, Row], *, n_resamples: int = 2000
) -> dict[str, Array]:
    """Mean over tasks of score(merged) / score(the task's own expert), for every method.

    Prompts of a task are drawn together for the expert and all methods, so that a hard draw of prompts cancels out of
    the quotient; tasks are drawn independently of each other. The draws of a task depend on its name alone, so that
    they are the same in every set of experts that has it.

    Args:
        merged: method → task → one score per prompt of the merged model.
        experts: task → one score per prompt of the task's expert, same prompts in the same order.
        n_resamples: how many draws.

    Returns:
        Method → retention of the samples, then of every draw; NaN in a draw in which an expert scores nothing.

    Raises:
        DataError: no tasks, a method with other tasks, an expert that scores nothing, or prompts that do not fit.
    """
    shares: dict[str, list[Array]] = {name: [] for name in merged}
    for task, means in _means(merged, experts, n_resamples).items():
        whole = means[_EXPERT]
        if not whole[0] > 0:
            raise DataError(f"the expert of {task} scores nothing, so nothing can be retained; train it again")
        whole = np.where(whole > 0, whole, np.nan)
        for name, found in shares.items():
            found.append(means[_merge(name)] / whole)
    return {name: np.asarray(np.mean(found, axis=0)) for name, found in shares.items()}


def together_draws(
    merged: Mapping[str, Mapping[str, Row]], experts: Mapping[str, Row], *, n_resamples: int = 2000
) -> dict[str, Array]:
    """Scores over all tasks together, as a share of the experts' own, with the draws of :func:`retention_draws`.

    A mean of quotients is decided by an expert that scores next to nothing; here it weighs next to nothing.

    Args:
        merged: as there.
        experts: as there.
        n_resamples: as there.

    Returns:
        Method → share of the samples, then of every draw; NaN in a draw in which no expert scores.

    Raises:
        DataError: as there, but for an expert that scores nothing beside one that does.
    """
    means = _means(merged, experts, n_resamples)
    prompts = {task: np.size(scores) for task, scores in experts.items()}

    def total(of: str) -> Array:
        return np.asarray(sum(prompts[task] * found[of] for task, found in means.items()))

    whole = total(_EXPERT)
    if not whole[0] > 0:
        raise DataError(f"the experts of {sorted(experts)} score nothing, so nothing can be retained; train them again")
    whole = np.where(whole > 0, whole, np.nan)
    return {name: np.asarray(total(_merge(name)) / whole) for name in merged}


def _merge(name: str) -> str:
    return f"merge by {name}"


def _means(
    merged: Mapping[str, Mapping[str, Row]], experts: Mapping[str, Row], n_resamples: int
) -> dict[str, dict[str, Array]]:
    """Task → the expert and every merge → means of the samples, then of every draw.

    Raises:
        DataError: no tasks, a method with other tasks, or prompts that do not fit.
    """
    other = {name: sorted(tasks) for name, tasks in merged.items() if sorted(tasks) != sorted(experts)}
    if not experts or other:
        raise DataError(
            f"retention: experts of {sorted(experts)}, merges with tasks {other}; expected the same tasks for all, at "
            "least one"
        )
    found = {}
    for task, expert in experts.items():
        rows = {_EXPERT: expert} | {_merge(name): scores[task] for name, scores in merged.items()}
        means = joint_means(rows, f"retention on {task}", np.random.default_rng(crc32(task.encode())), n_resamples)
        found[task] = {name: of[0] for name, of in means.items()}
    return found
