"""Rows of tokens in batches whose rows begin alike, so that what they have in common is read once.

Questions of one subject come with the same worked examples before them, which are most of their tokens. Rows are
packed, four bytes a token, so that bytes compare as the tokens do and thousands of long rows need little memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["LARGE_VOCABULARY", "RowBatch", "pack_tokens", "row_batches", "shared_beginning", "unpack_tokens"]

LARGE_VOCABULARY = 4096
"""From here on the output layer costs enough to be spared; below it lm-evaluation-harness's own code scores options."""

_LEAST = 24  # tokens that the rows of a batch must have in common for a pass of their own
_RELATED = 0.5  # of the shorter of two rows that they must have in common to stand in one batch
_WORTH = 0.2  # of all tokens that must be spared
_WIDTH = 4


class RowBatch(NamedTuple):
    """Rows that are read together.

    Attributes:
        rows: their places in the caller's order, the longest first.
        shared: how many tokens all of them begin with, if these are to be read once; else 0.
    """

    rows: tuple[int, ...]
    shared: int


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Four bytes a token, the highest first."""
    import numpy as np

    return np.asarray(tokens, dtype=">u4").tobytes()


def unpack_tokens(packed: bytes) -> list[int]:
    """The tokens again."""
    import numpy as np

    found: list[int] = np.frombuffer(packed, dtype=">u4").tolist()
    return found


def shared_beginning(rows: Sequence[bytes]) -> int:
    """How many tokens all rows begin with; at least one token of every row is left over.

    Args:
        rows: packed, at least one, none empty.

    Returns:
        The number; 0 where it is too small to be worth a pass of its own, and of a single row.

    Example:
        >>> same = [7] * 30
        >>> rows = [pack_tokens([*same, 1, 2]), pack_tokens([*same, 1])]
        >>> shared_beginning(rows), shared_beginning(rows[:1])
        (30, 0)
    """
    if len(rows) < 2:
        return 0
    found = min(_common(min(rows), max(rows)), min(map(len, rows)) // _WIDTH - 1)
    return found if found >= _LEAST else 0


def row_batches(rows: Sequence[bytes], size: int) -> list[RowBatch] | None:
    """Batches by beginnings, where that spares a fifth of all tokens.

    Args:
        rows: packed, none empty.
        size: of a batch.

    Returns:
        Every row once, the longest batches first; None where too little is spared. A function of the rows alone.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    related: list[list[int]] = []
    for place, i in enumerate(order):
        before = rows[order[place - 1]] if place else b""
        needed = max(_LEAST, _RELATED * min(len(before), len(rows[i])) / _WIDTH)
        if place and _common(before, rows[i]) >= needed:
            related[-1].append(i)
        else:
            related.append([i])
    batches = []
    for group in related:
        group.sort(key=lambda i: (-len(rows[i]), rows[i]))
        for start in range(0, len(group), size):
            part = tuple(group[start : start + size])
            batches.append(RowBatch(part, shared_beginning([rows[i] for i in part])))
    spared = sum((len(batch.rows) - 1) * batch.shared for batch in batches)
    batches.sort(key=lambda batch: (-len(rows[batch.rows[0]]), batch.rows))
    return batches if spared >= _WORTH * sum(map(len, rows)) / _WIDTH else None


def _common(one: bytes, other: bytes) -> int:
    """How many tokens two rows begin with."""
    low, high = 0, min(len(one), len(other)) // _WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * _WIDTH] == other[: middle * _WIDTH]:
            low = middle
        else:
            high = middle - 1
    return low
