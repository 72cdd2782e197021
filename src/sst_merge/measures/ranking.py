"""Methods against each other: who comes first, with what certainty."""

from collections.abc import Mapping

import numpy as np

from ..errors import DataError
from .figure import Figure
from .resampling import Row, joint_means

__all__ = ["rank_intervals"]


def rank_intervals(
    tasks: Mapping[str, Mapping[str, Row]],
    *,
    seed: int,
    higher_is_better: bool = True,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, Figure]:
    """Mean rank of each method over tasks, 1 the best, with a bootstrap over each task's prompts.

    Prompts are drawn jointly for all methods, task by task; tied methods share the mean of their ranks.

    Args:
        tasks: task → method → one score per prompt, same prompts in the same order for all methods of a task.
        seed: of the draws.
        higher_is_better: whether rank 1 has the largest mean score.
        n_resamples: how many draws.
        level: coverage.

    Returns:
        Method → mean rank and percentile interval. Ranks of resampled scores lean to the middle, so that the interval
        of a method that is certainly first or last is short and one-sided.

    Raises:
        DataError: no tasks, tasks with different methods, prompts that do not fit, or a level outside (0, 1).
    """
    from scipy.stats import rankdata

    methods = sorted(next(iter(tasks.values()), {}))
    other = [task for task, scores in tasks.items() if sorted(scores) != methods]
    if not methods or other or not 0 < level < 1:
        raise DataError(
            f"rank_intervals: methods {methods}, other ones on tasks {other}, level {level}; expected the same methods "
            "on every task, at least one, and a level between 0 and 1"
        )
    rng = np.random.default_rng(seed)
    total = np.zeros((len(methods), 1 + n_resamples))
    for task, scores in tasks.items():
        drawn = joint_means({name: scores[name] for name in methods}, f"rank_intervals, {task}", rng, n_resamples)
        means = np.concatenate(list(drawn.values()))
        # Equal means must tie although they were summed in different orders.
        total += rankdata(np.round(-means if higher_is_better else means, 12), axis=0)
    ranks = total / len(tasks)
    tail = 50 * (1 - level)
    lows, highs = np.percentile(ranks[:, 1:], (tail, 100 - tail), axis=1)
    return {
        name: Figure(float(ranks[i, 0]), float(lows[i]), float(highs[i]), len(tasks)) for i, name in enumerate(methods)
    }
