"""How a step is cut into forward passes: rows that begin alike read their beginning once, and little is padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..data_loader import EncodedRow
from ..data_loader.answer_logits import PASS_TOKENS

__all__ = ["Pass", "cut_into_passes"]


@dataclass(frozen=True)
class Pass:
    """Rows that are computed together.

    Attributes:
        rows: indices of rows.
        prefix: tokens that all begin with and that are read once; 0 where that is not worth a pass.
        tokens: that are computed, padding included.
    """

    rows: tuple[int, ...]
    prefix: int
    tokens: int

    @property
    def cost(self) -> int:
        """Tokens, and what its forward passes cost on top."""
        return self.tokens + PASS_TOKENS * (2 if self.prefix else 1)


def cut_into_passes(
    encoded: Sequence[EncodedRow], step: Sequence[int], *, largest: int, share: bool
) -> tuple[Pass, ...]:
    """The cheapest cut of a step's rows, in the order of their tokens (sharing) or of their length.

    Args:
        encoded: all rows.
        step: indices of the step's rows.
        largest: rows in a pass.
        share: whether common beginnings are read once.

    Returns:
        Passes that hold every row of the step once.
    """
    order = sorted(step, key=lambda i: (encoded[i].ids if share else (len(encoded[i].ids),), i))
    # best[n]: the cheapest cut of the first n rows, by its cost.
    best: list[tuple[int, tuple[Pass, ...]]] = [(0, ())]
    for end in range(1, len(order) + 1):
        ways = []
        for begin in range(max(0, end - largest), end):
            last = _one_pass(encoded, order[begin:end], share)
            ways.append((best[begin][0] + last.cost, (*best[begin][1], last)))
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]


def _one_pass(encoded: Sequence[EncodedRow], rows: Sequence[int], share: bool) -> Pass:
    longest = max(len(encoded[i].ids) for i in rows)
    plain = Pass(tuple(rows), 0, len(rows) * longest)
    if not share:
        return plain
    # In their order the first and the last row differ most; one token of every prompt stays, to predict the answer.
    ends = zip(encoded[rows[0]].ids, encoded[rows[-1]].ids, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    prefix = min(common, *(encoded[i].asked - 1 for i in rows))
    shared = Pass(tuple(rows), prefix, prefix + len(rows) * (longest - prefix))
    return min(plain, shared, key=lambda one: one.cost) if prefix > 0 else plain
