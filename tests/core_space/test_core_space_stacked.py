"""The core space without formed bases: the same updates, sums and cuts as the dense computation in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sst_merge.core_space import CoreSpace, StackedSpace
from sst_merge.errors import MergeError
from sst_merge.lora_utils import LoraFactors

sizes = st.integers(1, 12)


@settings(max_examples=60)
@given(d_out=sizes, d_in=sizes, ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_update_and_every_sum_is_exact(
    build: Any, relative_error: Any, d_out: int, d_in: int, ranks: list[int]
) -> None:
    """Any shapes, ranks above the layer's size included."""
    factors = [build.random_factors(d_out, d_in, r, seed=i) for i, r in enumerate(ranks)]
    space = StackedSpace.spanned_by(factors)
    assert space.shape == (min(d_out, sum(ranks)), min(d_in, sum(ranks)))
    cores = space.coordinates
    total, dense_total = torch.zeros(space.shape).double(), torch.zeros(d_out, d_in).double()
    for weight, (core, f) in enumerate(zip(cores, factors, strict=True), start=-1):
        dense = f.b @ f.a
        lifted, cut = space.lift(core)
        assert relative_error(lifted.delta(), dense) < 1e-12
        assert cut.kept_energy == pytest.approx(1.0)
        total += weight * core
        dense_total += weight * dense
    assert float((space.lift(total)[0].delta() - dense_total).norm()) <= 1e-12 * sum(float(c.norm()) for c in cores)


def test_cores_have_the_inner_products_of_the_updates(build: Any) -> None:
    """Orthonormal bases: spectra and angles survive, and so do statistics that need no particular basis."""
    factors = [build.random_factors(14, 11, 3, seed=s) for s in range(3)]
    cores = torch.stack([c.flatten() for c in StackedSpace.spanned_by(factors).coordinates])
    dense = torch.stack([(f.b @ f.a).flatten() for f in factors])
    torch.testing.assert_close(cores @ cores.T, dense @ dense.T, rtol=1e-12, atol=1e-12)


def test_the_cut_is_the_one_of_the_formed_bases(build: Any, relative_error: Any) -> None:
    factors = [build.random_factors(14, 11, 4, seed=s) for s in (0, 1)]
    stacked, formed = StackedSpace.spanned_by(factors), CoreSpace.spanned_by(factors)
    one = sum(stacked.coordinates)
    other = sum(formed.coordinates(f) for f in factors)
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    for cut in ({"rank": 3}, {"energy": 0.9}, {}):
        (found, truncation), (expected, reference) = stacked.lift(one, **cut), formed.lift(other, **cut)  # type: ignore[arg-type]
        assert relative_error(found.delta(), expected.delta()) < 1e-12
        assert truncation.rank == reference.rank
        assert truncation.kept_energy == pytest.approx(reference.kept_energy, rel=1e-12)


@pytest.mark.parametrize("case", ["twice the same", "zero", "tiny", "one column"])
def test_dependent_columns_stay_exact(build: Any, case: str) -> None:
    f = build.random_factors(9, 8, 3, seed=0)
    change = {
        "twice the same": f,
        "zero": LoraFactors(torch.zeros_like(f.b), f.a),
        "tiny": LoraFactors(f.b * 1e-160, f.a * 1e-160),
        "one column": LoraFactors(f.b[:, :1].repeat(1, 3), f.a),
    }
    factors = [f, change[case], f]
    space = StackedSpace.spanned_by(factors)
    for core, update in zip(space.coordinates, factors, strict=True):
        error = float((space.lift(core)[0].delta() - update.delta()).norm())
        assert error <= 1e-13 * float(f.delta().norm())


def test_absent_updates_kind_and_bias(build: Any) -> None:
    factors = [
        build.random_factors(6, 5, 2, seed=0, bias=True),
        None,
        build.random_factors(6, 5, 3, seed=1).with_bias(),
    ]
    space = StackedSpace.spanned_by(factors)
    assert [float(core.norm()) == 0.0 for core in space.coordinates] == [False, True, False]
    assert all(core.shape == space.shape for core in space.coordinates)
    first = factors[0]
    assert first is not None
    lifted, _ = space.lift(space.coordinates[0])
    torch.testing.assert_close(lifted.bias_delta(), first.bias_delta(), rtol=1e-12, atol=1e-13)
    assert (lifted.kind, lifted.bias) == (first.kind, True)
    nothing, cut = space.lift(space.coordinates[1])
    assert (nothing.rank, cut.kept_energy, float(nothing.delta().norm())) == (1, 1.0, 0.0)


def test_mismatches_are_refused(build: Any) -> None:
    f = build.random_factors(6, 5, 2, seed=0)
    with pytest.raises(MergeError, match="different layouts"):
        StackedSpace.spanned_by([f, build.random_factors(6, 4, 2, seed=1)])
    with pytest.raises(MergeError, match="at least one update"):
        StackedSpace.spanned_by([None])
    with pytest.raises(MergeError, match="this core space needs"):
        StackedSpace.spanned_by([f]).lift(torch.zeros(3, 2, dtype=torch.float64))
