"""Cuts of a step, against all cuts there are."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from sst_merge.data_loader import EncodedRow
from sst_merge.training.passes import cut_into_passes

OVERHEAD = 32


def row(ids: list[int], answer: int = 2) -> EncodedRow:
    return EncodedRow(tuple(ids), len(ids) - answer, 0)


def drawn(rng: random.Random, count: int) -> list[EncodedRow]:
    """Rows of three tasks with beginnings of 0, 20 and 60 tokens."""
    found = []
    for _ in range(count):
        task = rng.randrange(3)
        begin = [100 + task] * (0, 20, 60)[task]
        found.append(row(begin + [rng.randrange(50) for _ in range(rng.randint(3, 30))], answer=rng.randint(1, 2)))
    return found


def all_cuts(count: int) -> Iterator[list[tuple[int, int]]]:
    for mask in range(2 ** (count - 1)):
        borders = [0, *(i + 1 for i in range(count - 1) if mask >> i & 1), count]
        yield list(pairwise(borders))


def cost(rows: list[EncodedRow], share: bool) -> int:
    longest = max(len(r.ids) for r in rows)
    costs = [OVERHEAD + len(rows) * longest]
    if share:
        for prefix in range(1, min(r.asked for r in rows)):
            if len({r.ids[:prefix] for r in rows}) == 1:
                costs.append(2 * OVERHEAD + prefix + len(rows) * (longest - prefix))
    return min(costs)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("largest", [3, 9])
def test_no_cut_is_cheaper(share: bool, largest: int) -> None:
    rng = random.Random(largest)
    for _ in range(10):
        rows = drawn(rng, 9)
        passes = cut_into_passes(rows, range(9), largest=largest, share=share)
        assert sorted(i for part in passes for i in part.rows) == list(range(9))
        assert max(len(part.rows) for part in passes) <= largest
        order = sorted(rows, key=lambda r: r.ids if share else len(r.ids))
        cuts = [c for c in all_cuts(9) if max(end - begin for begin, end in c) <= largest]
        best = min(sum(cost(order[begin:end], share) for begin, end in cut) for cut in cuts)
        assert sum(part.cost for part in passes) == best
        for part in passes:
            assert part.prefix == 0 or len({rows[i].ids[: part.prefix] for i in part.rows}) == 1
            assert part.prefix < min(rows[i].asked for i in part.rows)


def test_tasks_are_told_apart() -> None:
    rows = [row([1 + i % 2] * 50 + [10 + i] * 8) for i in range(12)]
    passes = cut_into_passes(rows, range(12), largest=12, share=True)
    assert [(part.rows, part.prefix, part.tokens) for part in passes] == [
        ((0, 2, 4, 6, 8, 10), 50, 50 + 6 * 8),
        ((1, 3, 5, 7, 9, 11), 50, 50 + 6 * 8),
    ]


def test_one_row_shares_nothing() -> None:
    (only,) = cut_into_passes([row([5] * 40)], [0], largest=4, share=True)
    assert (only.prefix, only.tokens) == (0, 40)
