"""Retention against the number of merged experts, with bootstrap intervals from per-sample scores."""

from collections.abc import Mapping

import numpy as np

from ..errors import DataError
from .resampling import Array, Measured, Row, measured, resampled_means, sample_matrix

__all__ = ["retention_curve"]


def retention_curve(
    merged: Mapping[int, Mapping[str, Row]],
    experts: Mapping[str, Row],
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[int, Measured]:
    """Retention at n experts, mean over tasks of score(merged) / score(the task's own expert), for each n.

    Prompts of a task are drawn jointly for all merged models and the expert, so that a hard draw of prompts cancels
    out of the quotient; tasks are drawn independently of each other.

    Args:
        merged: number of experts → task → one score per prompt; each merge on the tasks of its own experts.
        experts: task → one score per prompt of the task's expert, same prompts in the same order.
        seed: of the draws.
        n_resamples: how many draws.
        level: coverage.

    Returns:
        Number of experts → retention, in ascending order. A draw in which an expert scores nothing has none.

    Raises:
        DataError: no merges, a merge without tasks or with a task that has no expert, an expert that scores nothing,
            or prompts that do not fit.
    """
    lacking = sorted({task for tasks in merged.values() for task in tasks} - set(experts))
    if not merged or not all(merged.values()) or lacking:
        raise DataError(f"retention_curve: merges of {sorted(merged)} experts, no expert for tasks {lacking}; expected "
                        "at least one merge, each with tasks that have an expert")  # fmt: skip
    rng = np.random.default_rng(seed)
    shares: dict[int, list[Array]] = {n: [] for n in sorted(merged)}
    for task in sorted(experts):
        users = [n for n in shares if task in merged[n]]
        if not users:
            continue
        rows = [np.asarray(scores, float) for scores in (experts[task], *(merged[n][task] for n in users))]
        if len({row.shape for row in rows}) > 1:
            raise DataError(f"retention_curve: {task}: scores of shapes {[row.shape for row in rows]}; expected the "
                            "same prompts for the expert and all merges")  # fmt: skip
        matrix = sample_matrix(np.stack(rows), f"retention_curve, {task}")
        means = resampled_means(matrix, rng, n_resamples)
        if not means[0, 0] > 0:
            raise DataError(f"retention_curve: the expert of {task} scores nothing, so nothing can be retained")
        expert = np.where(means[0] > 0, means[0], np.nan)
        for n, scores in zip(users, means[1:], strict=True):
            shares[n].append(scores / expert)
    curve = {n: np.mean(quotients, axis=0) for n, quotients in shares.items()}
    return {n: measured(figures, level) for n, figures in curve.items()}
