"""Steps: which rows they hold, how little is padded, and that the seed alone decides."""

import math

import pytest
from tests.training.conftest import recipe, rows, tokenizer

from sst_merge.data_loader import Row, encode_rows
from sst_merge.errors import DataError
from sst_merge.training import plan_training
from sst_merge.training.order import learning_rate_share, ordered_steps, step_count

LENGTHS = [(37 * i * i) % 101 + 1 for i in range(500)]


def test_every_row_comes_once_an_epoch() -> None:
    steps = ordered_steps(LENGTHS, epochs=3, batch_size=16, seed=5)
    per_epoch = math.ceil(500 / 16)
    assert len(steps) == 3 * per_epoch == step_count(500, epochs=3, batch_size=16)
    epochs = [steps[i * per_epoch : (i + 1) * per_epoch] for i in range(3)]
    for epoch in epochs:
        assert sorted(row for step in epoch for row in step) == list(range(500))
    assert epochs[0] != epochs[1] != epochs[2]


def test_few_rows_are_mixed_anew_in_every_epoch() -> None:
    steps = ordered_steps(LENGTHS[:32], epochs=2, batch_size=8, seed=0)
    assert {frozenset(step) for step in steps[:4]}.isdisjoint(frozenset(step) for step in steps[4:])


def test_the_seed_decides() -> None:
    one, same, other = (ordered_steps(LENGTHS, epochs=1, batch_size=8, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(("epochs", "expected"), [(0.5, 16), (0.001, 1), (1.0, 32), (2.25, 72), (0.1 * 3, 10)])
def test_parts_of_an_epoch(epochs: float, expected: int) -> None:
    assert len(ordered_steps(LENGTHS, epochs=epochs, batch_size=16, seed=0)) == expected


def test_little_is_padded_and_batches_are_not_in_the_order_of_length() -> None:
    steps = ordered_steps(LENGTHS, epochs=1, batch_size=16, seed=0)
    computed = sum(len(step) * max(LENGTHS[i] for i in step) for step in steps)
    unsorted = [list(range(i, min(i + 16, 500))) for i in range(0, 500, 16)]
    plain = sum(len(step) * max(LENGTHS[i] for i in step) for step in unsorted)
    assert computed < 1.2 * sum(LENGTHS) < 0.7 * plain
    longest = [max(LENGTHS[i] for i in step) for step in steps]
    assert longest != sorted(longest)


def test_the_learning_rate_rises_and_falls_along_half_a_cosine() -> None:
    shares = [learning_rate_share(step, 100, 10) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert 0 < shares[99] < 0.001
    assert [learning_rate_share(0, 1, warmup) for warmup in (0, 1)] == [1.0, 1.0]


def test_a_plan_counts_what_encode_rows_gives() -> None:
    plan = plan_training(rows(), tokenizer(), recipe(epochs=2), seed=0)
    (whole,) = encode_rows(rows(), tokenizer(), batch_size=1000)
    assert plan.tokens == 2 * whole.tokens
    assert plan.answer_tokens == 2 * int((whole.labels != -100).sum())
    assert plan.cut == 0
    for step, expected in enumerate(plan.steps):
        assert sorted(row for part in plan.passes(step) for row in part.rows) == sorted(expected)


def test_accumulation_is_a_largest_pass() -> None:
    plan = plan_training(rows(10), tokenizer(), recipe(batch_size=5, accumulation=2), seed=0)
    for step in range(2):
        sizes = [len(part.rows) for part in plan.passes(step)]
        assert sum(sizes) == 5
        assert len(sizes) >= 2
        assert max(sizes) <= 3


def test_long_rows_are_cut_and_counted() -> None:
    short = plan_training(rows(), tokenizer(), recipe(max_length=6), seed=0)
    assert short.cut == sum(row.cut > 0 for row in short.rows) > 0
    assert max(len(row.ids) for row in short.rows) == 6


def test_rows_without_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        plan_training([], tokenizer(), recipe(), seed=0)
    with pytest.raises(DataError, match="'w1': its prompt has no tokens"):
        plan_training([Row("", "w1")], tokenizer(), recipe(), seed=0)
