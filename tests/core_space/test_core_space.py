"""Core space: exact coordinates, exact lifting, optimal truncation, against dense SVDs in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sst_merge.core_space import CoreSpace
from sst_merge.errors import MergeError
from sst_merge.lora_utils import LoraFactors

sizes = st.integers(1, 12)


@settings(max_examples=60)
@given(d_out=sizes, d_in=sizes, ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_update_is_exact_in_the_shared_bases(
    build: Any, relative_error: Any, d_out: int, d_in: int, ranks: list[int]
) -> None:
    """Any shapes, ranks above the layer's size included."""
    factors = [build.random_factors(d_out, d_in, r, seed=i) for i, r in enumerate(ranks)]
    space = CoreSpace.spanned_by(factors)
    for basis in (space.left, space.right):
        eye = torch.eye(basis.shape[1], dtype=torch.float64)
        torch.testing.assert_close(basis.T @ basis, eye, rtol=0, atol=1e-10)
    for f in factors:
        dense = f.b @ f.a
        assert relative_error(space.left @ space.coordinates(f) @ space.right.T, dense) < 1e-10
        lifted, cut = space.lift(space.coordinates(f))
        assert relative_error(lifted.delta(), dense) < 1e-10
        assert cut.kept_energy == pytest.approx(1.0)
        assert lifted.rank <= min(d_out, d_in, f.rank)


def test_truncation_is_the_best_of_its_rank(build: Any) -> None:
    """Eckart–Young: the error is the tail of the dense matrix's singular values."""
    factors = [build.random_factors(14, 11, 4, seed=s) for s in (0, 1)]
    space = CoreSpace.spanned_by(factors)
    core = sum(space.coordinates(f) for f in factors)
    dense = sum(f.b @ f.a for f in factors)
    values = torch.linalg.svdvals(dense)
    for rank in (1, 3, 8):
        lifted, cut = space.lift(core, rank=rank)
        tail = float(values[rank:].square().sum().sqrt())
        assert float((lifted.delta() - dense).norm()) == pytest.approx(tail, rel=1e-9, abs=1e-9)
        assert cut.kept_energy == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))
    lifted, cut = space.lift(core, energy=0.9)
    share = values.square().cumsum(0) / values.square().sum()
    assert lifted.rank == int((share < 0.9).sum()) + 1
    assert cut.kept_energy >= 0.9
    assert space.lift(core, energy=1.0)[0].rank == 8


def test_aligned_bases_do_not_depend_on_the_factorisation(build: Any) -> None:
    f = build.random_factors(9, 8, 3, seed=0)
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [1.0, 0.0, 3.0]], dtype=torch.float64)
    other = LoraFactors(f.b @ mix, torch.linalg.inv(mix) @ f.a)
    one, two = CoreSpace.spanned_by([f]), CoreSpace.spanned_by([other])
    torch.testing.assert_close(one.coordinates(f).abs(), two.coordinates(other).abs(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close((one.left.T @ two.left).abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_aligned_bases_drop_directions_that_no_update_uses(build: Any, relative_error: Any) -> None:
    f = build.random_factors(9, 8, 2, seed=0)
    doubled = LoraFactors(torch.cat([f.b, f.b], 1), torch.cat([f.a, -0.5 * f.a], 0))
    space = CoreSpace.spanned_by([doubled])
    assert space.shape == (2, 2)
    assert relative_error(space.lift(space.coordinates(doubled))[0].delta(), 0.5 * f.b @ f.a) < 1e-10


def test_bias_column_is_one_more_input(build: Any, relative_error: Any) -> None:
    factors = [build.random_factors(6, 5, 2, seed=0, bias=True), build.random_factors(6, 5, 3, seed=1).with_bias()]
    space = CoreSpace.spanned_by(factors)
    assert space.d_in == 5
    lifted, _ = space.lift(sum(space.coordinates(f) for f in factors))
    assert relative_error(lifted.delta(), factors[0].delta() + factors[1].delta()) < 1e-10
    torch.testing.assert_close(lifted.bias_delta(), factors[0].bias_delta(), rtol=1e-9, atol=1e-10)


def test_absent_and_zero_updates(build: Any) -> None:
    f = build.random_factors(6, 5, 2, seed=0)
    space = CoreSpace.spanned_by([f])
    assert float(space.coordinates(None).norm()) == 0.0
    lifted, cut = space.lift(space.coordinates(None))
    assert (lifted.rank, cut.kept_energy) == (1, 1.0)
    assert float(lifted.delta().norm()) == 0.0
    zero = LoraFactors(torch.zeros(6, 2), torch.zeros(2, 5))
    assert CoreSpace.spanned_by([zero]).shape == (1, 1)


def test_mismatches_are_refused(build: Any) -> None:
    f = build.random_factors(6, 5, 2, seed=0)
    with pytest.raises(MergeError, match="different layouts"):
        CoreSpace.spanned_by([f, build.random_factors(6, 4, 2, seed=1)])
    with pytest.raises(MergeError, match="at least one update"):
        CoreSpace.spanned_by([])
    space = CoreSpace.spanned_by([f])
    with pytest.raises(MergeError, match="this core space needs"):
        space.lift(torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(MergeError, match="NaN"):
        space.lift(torch.full((2, 2), float("nan"), dtype=torch.float64))
