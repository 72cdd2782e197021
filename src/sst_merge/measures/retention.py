"""Retention of many experts in one merge, with bootstrap draws from per-sample scores."""

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from ..errors import DataError
from .resampling import Array, Row, joint_means

__all__ = ["retention_draws"]


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
    other = {name: sorted(tasks) for name, tasks in merged.items() if sorted(tasks) != sorted(experts)}
    if not experts or other:
        raise DataError(
            f"retention_draws: experts of {sorted(experts)}, merges with tasks {other}; expected the same tasks for "
            "all, at least one"
        )
    shares: dict[str, list[Array]] = {name: [] for name in merged}
    for task, expert in experts.items():
        rows = {"expert": expert} | {f"merge by {name}": scores[task] for name, scores in merged.items()}
        means = joint_means(rows, f"retention on {task}", np.random.default_rng(crc32(task.encode())), n_resamples)
        whole = means["expert"][0]
        if not whole[0] > 0:
            raise DataError(f"the expert of {task} scores nothing, so nothing can be retained; train it anew")
        whole = np.where(whole > 0, whole, np.nan)
        for name, found in shares.items():
            found.append(means[f"merge by {name}"][0] / whole)
    return {name: np.asarray(np.mean(found, axis=0)) for name, found in shares.items()}
