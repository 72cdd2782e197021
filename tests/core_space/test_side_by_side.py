"""Sums of updates as factors side by side: the same bits, the dense sum, and no column that adds nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sst_merge.core_space import side_by_side
from sst_merge.errors import MergeError
from sst_merge.lora_utils import LoraFactors

sizes = st.integers(1, 12)


@settings(max_examples=60)
@given(d_out=sizes, d_in=sizes, ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_it_is_the_dense_sum(build: Any, d_out: int, d_in: int, ranks: list[int]) -> None:
    factors = [build.random_factors(d_out, d_in, r, seed=i) for i, r in enumerate(ranks)]
    coefficients = [float(i - 1.5) for i in range(len(ranks))]
    dense = torch.zeros(d_out, d_in, dtype=torch.float64)
    for f, c in zip(factors, coefficients, strict=True):
        dense += c * (f.b @ f.a)
    total, norm = side_by_side(factors, coefficients)
    assert total.rank == sum(ranks)
    torch.testing.assert_close(total.b @ total.a, dense, rtol=1e-12, atol=1e-12)
    assert norm == pytest.approx(float(dense.norm()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_update_keeps_every_bit_of_its_product(dtype: torch.dtype) -> None:
    """Scaling by powers of two rounds nothing: bₖaₖᵀ of every direction is the same number, bit by bit."""
    generator = torch.Generator().manual_seed(3)
    b = torch.randn(40, 5, generator=generator).mul_(torch.tensor([1e-6, 1e-3, 1.0, 30.0, 1e4])).to(dtype)
    a = torch.randn(5, 24, generator=generator).to(dtype)
    total, _ = side_by_side([LoraFactors(b, a)], [1.0])
    for k in range(5):
        assert torch.equal(torch.outer(total.b[:, k], total.a[k]), torch.outer(b[:, k], a[k]))
    sizes = [side.double().norm() for k in range(5) for side in (total.b[:, k], total.a[k])]
    assert all(0.4 < float(x / y) < 2.5 for x, y in zip(sizes[::2], sizes[1::2], strict=True))


def test_updates_that_share_their_inputs_share_columns(build: Any, relative_error: Any) -> None:
    one, other = (build.random_factors(9, 7, 3, seed=s) for s in (1, 2))
    frozen = LoraFactors(other.b, one.a)
    total, _ = side_by_side([one, frozen, other, one], [1.0, 2.0, 1.0, -0.5])
    assert total.rank == 6
    assert relative_error(total.delta(), 0.5 * one.delta() + 2 * frozen.delta() + other.delta()) < 1e-12
    cancelled, norm = side_by_side([one, one], [1.0, -1.0])
    assert (cancelled.rank, norm, float(cancelled.delta().abs().max())) == (1, 0.0, 0.0)


def test_columns_that_add_nothing_are_left_out(build: Any, relative_error: Any) -> None:
    whole = build.random_factors(9, 7, 4, seed=1)
    padded = LoraFactors(whole.b * torch.tensor([1.0, 0.0, 1.0, 1.0]), whole.a * torch.tensor([1.0, 1, 1, 0])[:, None])
    total, _ = side_by_side([None, padded], [1.0, 1.0])
    assert total.rank == 2
    assert relative_error(total.delta(), padded.delta()) < 1e-12
    tiny = LoraFactors(torch.full((9, 1), 1e-30), torch.full((1, 7), 1e20))
    assert side_by_side([tiny], [1.0])[0].delta()[0, 0] == pytest.approx(1e-10)


def test_other_shapes_are_refused(build: Any) -> None:
    with pytest.raises(MergeError, match="different layouts"):
        side_by_side([build.random_factors(9, 7, 2), build.random_factors(9, 8, 2)], [1.0, 1.0])
    with pytest.raises(MergeError, match="at least one"):
        side_by_side([None], [1.0])
