"""Which rows a step sees, and how large it is: decided before the first step, by the seed alone."""

import math
import random
from collections.abc import Sequence

__all__ = ["learning_rate_share", "ordered_steps", "step_count"]

_BUCKET = 16
"""Batches whose rows are sorted together: enough that little is padded, few enough that epochs mix them anew."""


def step_count(rows: int, *, epochs: float, batch_size: int) -> int:
    """Steps of a training.

    Args:
        rows: in the data.
        epochs: how often each is seen.
        batch_size: rows in a step.

    Returns:
        At least 1. Every whole epoch ends with a smaller step where the rows do not divide.
    """
    return max(1, math.ceil(math.ceil(rows / batch_size) * epochs - 1e-9))


def ordered_steps(lengths: Sequence[int], *, epochs: float, batch_size: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """The rows of every step: shuffled, sorted by length inside buckets of batches, the batches shuffled again.

    Args:
        lengths: tokens of every row.
        epochs: how often each row is seen; a part of an epoch is a random part of the batches.
        batch_size: rows in a step.
        seed: of both shuffles.

    Returns:
        Indices of rows, shortest first, one tuple a step.
    """
    rng = random.Random(seed)
    count = step_count(len(lengths), epochs=epochs, batch_size=batch_size)
    steps: list[tuple[int, ...]] = []
    while len(steps) < count:
        steps.extend(_epoch(lengths, batch_size, rng))
    return tuple(steps[:count])


def _epoch(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[tuple[int, ...]]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[tuple[int, ...]] = []
    size = batch_size * min(_BUCKET, max(2, len(order) // batch_size // 4))
    for begin in range(0, len(order), size):
        bucket = sorted(order[begin : begin + size], key=lambda row: lengths[row])
        batches += [tuple(bucket[i : i + batch_size]) for i in range(0, len(bucket), batch_size)]
    rng.shuffle(batches)
    return batches


def learning_rate_share(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine.

    Args:
        step: 0 … steps - 1.
        steps: in all.
        warmup: steps that rise.

    Returns:
        Share of the highest learning rate, in (0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
