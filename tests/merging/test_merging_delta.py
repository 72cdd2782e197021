"""ΔW formed on demand: by adapter, by rows, by entries; what a merge holds at once; rules in blocks of rows."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sst_merge.lora_utils import Adapter, LinearKind, LoraFactors
from sst_merge.merging import delta as delta_room
from sst_merge.merging import merge
from sst_merge.merging.delta import FormedUpdates, compress_delta
from sst_merge.methods import Layer, MergeMethod, available_methods
from sst_merge.methods.parts.thresholds import magnitude_threshold, update_thresholds
from sst_merge.methods.parts.updates import row_blocks
from sst_merge.reporting import merge_page

# Three blocks of rows, and enough rows for the truncated decomposition.
SHAPE = (300, 1000)
RANKS = (2, 5, 3)
WEIGHTS = (1.0, 0.5, -0.7)
ENTRYWISE = [m for m in available_methods().values() if m.domain == "delta" and not (m.needs.data or m.needs.base)]


def factors(build: Any) -> list[LoraFactors]:
    return [build.random_factors(*SHAPE, rank, seed=rank) for rank in RANKS]


def adapters(build: Any) -> list[Adapter]:
    return [
        Adapter.from_factors({"m": f}, name=f"a{i}", weight=w, role="safety" if i == 2 else "utility")
        for i, (f, w) in enumerate(zip(factors(build), WEIGHTS, strict=True))
    ]


def layer(patches: FormedUpdates | tuple[Tensor, ...]) -> Layer:
    return Layer("m", patches, WEIGHTS, ("utility",) * 3, torch.Generator())


def dense(build: Any) -> list[NDArray[np.float64]]:
    return [w * (f.b @ f.a).numpy() for f, w in zip(factors(build), WEIGHTS, strict=True)]


def largest(update: NDArray[np.float64], keep: int) -> NDArray[np.float64]:
    return np.where(np.abs(update) >= np.sort(np.abs(update), axis=None)[-keep], update, 0.0)


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many whole ΔW are alive whenever one is formed."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    counts: list[int] = []
    original = delta_room.full_delta

    def counted(found: LoraFactors) -> Tensor:
        result = original(found)
        alive.add(result)
        counts.append(len(alive))
        return result

    monkeypatch.setattr(delta_room, "full_delta", counted)
    yield counts


def test_updates_are_formed_when_asked_for(build: Any, formed: list[int]) -> None:
    one, _, three = factors(build)
    updates = FormedUpdates([one, None, three])
    assert (len(updates), updates.shape, formed) == (3, SHAPE, [])
    assert updates[0] is updates[0]
    assert updates[-1] is updates[2]
    assert len(formed) == 2
    assert torch.equal(updates[0], one.b @ one.a)
    assert float(updates[1].abs().max()) == 0.0
    assert [tuple(u.shape) for u in updates[1:]] == [SHAPE, SHAPE]
    assert [float(u.sum()) for u in updates] == [float(updates[i].sum()) for i in range(3)]
    with pytest.raises(IndexError):
        updates[3]


def test_parts_are_those_of_the_whole(build: Any) -> None:
    one, two, _ = factors(build)
    whole = (one.b @ one.a, two.b @ two.a, torch.zeros(SHAPE).double())
    positions = torch.arange(0, SHAPE[0] * SHAPE[1], 997)
    for patches in (FormedUpdates([one, two, None]), whole):
        parts = layer(patches)
        assert parts.shape == SHAPE
        for index in range(3):
            assert torch.allclose(parts.rows(index, slice(30, 47)), whole[index][30:47], atol=1e-12)
            assert torch.allclose(parts.entries(index, positions), whole[index].flatten()[positions], atol=1e-12)
            for matrix, transposed in ((whole[index], False), (whole[index].T, True)):
                columns = torch.randn(matrix.shape[1], 3, generator=torch.Generator().manual_seed(2)).double()
                assert torch.allclose(parts.times(index, columns, transposed=transposed), matrix @ columns, atol=1e-11)


def test_hint_spans_the_row_space_of_opposed_updates(build: Any, relative_error: Any) -> None:
    one = factors(build)[1]
    hinted = FormedUpdates([one, LoraFactors(-one.b, one.a)]).hint(torch.randn(SHAPE[0], 8).double())
    assert int(torch.linalg.matrix_rank(hinted)) == 5
    basis = torch.linalg.qr(one.a.T).Q
    assert relative_error(basis @ (basis.T @ hinted), hinted) <= 1e-12


@pytest.mark.parametrize("method", ENTRYWISE, ids=[m.name for m in ENTRYWISE])
def test_no_method_holds_more_than_two_updates_at_once(build: Any, method: MergeMethod, formed: list[int]) -> None:
    more = [a.with_(name=f"{a.name}-{i}") for i in range(3) for a in adapters(build)]
    merge(more, method.name, rank=4)
    # The one at hand and the next one while it is formed.
    assert max(formed, default=0) <= 2


@pytest.mark.parametrize("name", ["ties", "magnitude_prune", "breadcrumbs"])
def test_rules_in_blocks_of_rows_are_those_of_whole_matrices(
    build: Any, relative_error: Any, name: str, formed: list[int]
) -> None:
    assert len(list(row_blocks(SHAPE))) == 3
    n = SHAPE[0] * SHAPE[1]
    kept = {"ties": int(0.2 * n), "magnitude_prune": int(0.2 * n), "breadcrumbs": int(0.01 * n) + int(0.14 * n)}[name]
    parts = np.stack([largest(u, kept) for u in dense(build)])
    if name == "breadcrumbs":
        parts -= np.stack([largest(u, int(0.01 * n)) for u in dense(build)])
    expected = parts.sum(0)
    if name == "ties":
        agrees = (np.sign(parts) == np.sign(expected)) & (parts != 0)
        expected = (parts * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    result = merge(adapters(build), name, compute_dtype=torch.float64).adapter.delta("m", dtype=torch.float64)
    assert relative_error(result, torch.from_numpy(expected)) <= 1e-9
    assert formed == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_thresholds_are_exact_where_the_sample_misleads(dtype: torch.dtype) -> None:
    """The sample sees every 37th entry or so; here those alone are large, so that no bracket can hold the answer."""
    values = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    step = (values.numel() >> 13) | 1
    values.view(-1)[::step] += 10.0
    ordered = values.flatten().sort(descending=True).values
    for keep in (1, 5_000, 60_000, values.numel()):
        assert float(magnitude_threshold(values, keep)) == float(ordered[keep - 1])
        found = update_thresholds(layer((values, -values, torch.zeros_like(values))), [keep] * 3)
        assert [float(t) for t in found] == [float(ordered[keep - 1]), float(ordered[keep - 1]), 0.0]


def test_a_cut_to_a_rank_reports_what_it_kept_and_no_more(build: Any) -> None:
    one, two = (build.random_factors(*SHAPE, 8, seed=s, dtype=torch.float32) for s in (1, 2))
    pair = [Adapter.from_factors({"m": f}, name=f"a{i}") for i, f in enumerate((one, two))]
    whole = merge(pair, "ties", compute_dtype=torch.float64)
    cut = merge(pair, "ties", rank=6)
    figures = cut.report.modules["m"]
    expected = whole.adapter.delta("m", dtype=torch.float64)
    squares = np.linalg.svd(expected.numpy(), compute_uv=False) ** 2
    best = squares[:6].sum() / squares.sum()
    assert (1 - 1e-3) * best <= figures.kept_energy <= best * (1 + 1e-5)
    missed = float((expected - cut.adapter.delta("m", dtype=torch.float64)).square().sum() / squares.sum())
    assert figures.kept_energy == pytest.approx(1 - missed, abs=1e-5)
    assert (figures.rank, figures.effective_rank) == (6, None)
    assert whole.report.modules["m"].effective_rank is not None
    assert "<td>–</td>" in "".join(merge_page(cut.report.to_dict()).split()).replace('class="number"', "")


def test_energy_asks_for_the_whole_decomposition(build: Any) -> None:
    delta = build.random_factors(*SHAPE, 40, seed=3).b @ build.random_factors(*SHAPE, 40, seed=4).a
    _, by_energy = compress_delta(delta, kind=LinearKind(), bias=False, rank=8, energy=0.5)
    _, by_rank = compress_delta(delta, kind=LinearKind(), bias=False, rank=8)
    assert (by_energy.complete, by_energy.singular_values.numel()) == (True, 300)
    assert (by_rank.complete, by_rank.singular_values.numel()) == (False, 8)
    assert by_energy.kept_energy == pytest.approx(by_rank.kept_energy, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_share_kept_holds_where_squares_leave_the_range(build: Any, scale: float) -> None:
    delta = scale * (build.random_factors(*SHAPE, 40, seed=3).b @ build.random_factors(*SHAPE, 40, seed=4).a).float()
    _, cut = compress_delta(delta, kind=LinearKind(), bias=False, rank=8)
    squares = np.linalg.svd(delta.double().numpy(), compute_uv=False) ** 2
    assert cut.kept_energy == pytest.approx(squares[:8].sum() / squares.sum(), rel=1e-3)
