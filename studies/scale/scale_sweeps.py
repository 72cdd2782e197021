"""The sweeps of ``studies/scale/measure.py``: one quantity varied, all others held, and the operations counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from scale_laws import exact_sum, fisher, solve, utility_step
from scale_models import Shape, plain, random_adapter, random_batches, random_model
from torch import Tensor

from sst_merge.fim_calculator import build_spaces, compute_fim, point_cores
from sst_merge.fim_calculator.structures.kronecker import KroneckerFisher
from sst_merge.gevp_solver import solve_gevp
from sst_merge.gevp_solver.kronecker_sum import KroneckerSum
from sst_merge.lora_utils import Adapter
from sst_merge.merging import merge

__all__ = ["Point", "Sweep", "all_sweeps"]


@dataclass(frozen=True)
class Point:
    """One size.

    Attributes:
        x: the varied quantity.
        task: what is timed.
        operations: that the law counts, up to a factor that is the same in the whole sweep.
        beside: a plain pass over the same tokens, where there is one.
    """

    x: int
    task: Callable[[], object]
    operations: float
    beside: Callable[[], object] | None = None


@dataclass(frozen=True)
class Sweep:
    """Several sizes.

    Attributes:
        of: what is computed.
        varied: which quantity.
        held: the others.
        law: in one line.
        points: by size.
    """

    of: str
    varied: str
    held: str
    law: str
    points: list[Point] = field(repr=False)


def all_sweeps(smallest: bool) -> list[Sweep]:
    """Every sweep.

    Args:
        smallest: only the two smallest sizes of each.

    Returns:
        The sweeps, with nothing computed but their inputs.
    """
    found = [*_sums(), *_entries(), *_solves(), *_fishers()]
    if smallest:
        found = [Sweep(one.of, one.varied, one.held, one.law, one.points[:2]) for one in found]
    return found


def square(side: int, modules: int = 1) -> dict[str, tuple[int, int]]:
    """Some square modules."""
    return {f"model.layers.{i}.self_attn.q_proj": (side, side) for i in range(modules)}


@cache
def _adapters(side: int, modules: int, count: int, rank: int) -> list[Adapter]:
    return [random_adapter(square(side, modules), rank, seed=seed) for seed in range(count)]


def _merged(side: int, modules: int, count: int, rank: int, method: str, cut: int | None) -> object:
    return merge(_adapters(side, modules, count, rank), method, rank=cut)


def _merging(method: str, cut: int | None, x: int, counted: Callable[..., float], **sizes: int) -> Point:
    task = partial(_merged, sizes["side"], sizes["modules"], sizes["count"], sizes["rank"], method, cut)
    return Point(x, task, counted(square(sizes["side"], sizes["modules"]), sizes["count"], sizes["rank"]))


def _sums() -> list[Sweep]:
    point = partial(_merging, "task_arithmetic", None)
    many = [point(n, exact_sum, side=1024, modules=1, count=n, rank=4) for n in (2, 10, 20, 50, 100)]
    ranks = [point(r, exact_sum, side=1024, modules=1, count=2, rank=r) for r in (4, 16, 64, 128, 256)]
    sides = [point(d, exact_sum, side=d, modules=1, count=8, rank=16) for d in (512, 1024, 2048, 4096)]
    layers = [point(m, exact_sum, side=512, modules=m, count=4, rank=16) for m in (4, 8, 16, 32)]
    cubes = "s = n r: QR 6 d s² a side, SVD 22 s³: from s² to s³"
    return [
        Sweep("exact sum", "adapters", "r = 4, one 1024 × 1024 module", cubes, many),
        Sweep("exact sum", "rank", "2 adapters, one 1024 × 1024 module", cubes, ranks),
        Sweep("exact sum", "side of a module", "8 adapters, r = 16", "6 d s² a side beside 22 s³: below 1", sides),
        Sweep("exact sum", "modules", "4 adapters, r = 16, 512 × 512", "modules are independent: 1", layers),
    ]


def _entries() -> list[Sweep]:
    def entries(modules: dict[str, tuple[int, int]], adapters: int, rank: int) -> float:
        return float(adapters * sum(out * into for out, into in modules.values()))

    point = partial(_merging, "ties", 4)
    many = [point(n, entries, side=256, modules=1, count=n, rank=4) for n in (2, 10, 30, 100)]
    sides = [point(d, entries, side=d, modules=1, count=4, rank=4) for d in (256, 512, 1024)]
    ranks = [point(r, entries, side=512, modules=1, count=4, rank=r) for r in (4, 16, 64, 256)]
    return [
        Sweep("TIES", "adapters", "r = 4, one 256 × 256 module, output rank 4", "n d² entries, each seen: 1", many),
        Sweep("TIES", "side of a module", "4 adapters, r = 4, output rank 4", "n d² entries: 2", sides),
        Sweep(
            "TIES",
            "rank",
            "4 adapters, one 512 × 512 module, output rank 4",
            "2 n d² r for ΔW beside n d² passes over entries: 0, towards 1",
            ranks,
        ),
    ]


def _gram(size: int, seed: int) -> Tensor:
    rows = torch.randn(2 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows


@cache
def _pair(size: int) -> tuple[KroneckerFisher, KroneckerFisher, Tensor]:
    harm, benign = (
        KroneckerFisher(samples=64, tokens=512, gradient_outer=_gram(size, seed), input_outer=_gram(size, seed + 1))
        for seed in (0, 2)
    )
    return harm, benign, torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def _solved(size: int) -> object:
    harm, benign, core = _pair(size)
    return solve_gevp(harm, benign, damping=0.1).apply(core, lambda values: values / (values + 1.0))


@cache
def _fisher_sum(count: int, rank: int) -> tuple[KroneckerSum, Tensor]:
    size, generator = count * rank, torch.Generator().manual_seed(0)
    left, right = (torch.randn(count, size, size, generator=generator, dtype=torch.float64) for _ in range(2))
    return KroneckerSum(left, right, 1.0), torch.randn(size, size, generator=generator, dtype=torch.float64)


def _stepped(count: int, rank: int) -> object:
    operator, core = _fisher_sum(count, rank)
    return operator.matvec(core)


def _solves() -> list[Sweep]:
    cores = [Point(s, partial(_solved, s), solve(s)) for s in (48, 96, 192, 384)]
    steps = [Point(n, partial(_stepped, n, 2), utility_step(n, 2)) for n in (10, 20, 50, 100)]
    return [
        Sweep(
            "filter of SST-Merge",
            "size of the core, n r",
            "one module, Kronecker Fishers",
            "eigenproblems of (s, s) and products of s³, never one of (s², s²): 3",
            cores,
        ),
        Sweep(
            "a step towards M_U",
            "adapters",
            "r = 2, one module, a Kronecker Fisher each",
            "Σ Gᵢ X Aᵢ: n products of (n r)³: 4",
            steps,
        ),
    ]


@dataclass(frozen=True)
class _Pass:
    """A Fisher's sizes."""

    hidden: int = 128
    layers: int = 2
    samples: int = 8
    tokens: int = 64
    adapters: int = 2
    rank: int = 4
    vocabulary: int = 4096

    @property
    def shape(self) -> Shape:
        """A Llama of these sizes."""
        return Shape("", self.hidden, self.hidden * 43 // 16, self.layers, 4, 4, self.vocabulary)

    def point(self, x: int) -> Point:
        """The Fisher, its operations and the plain pass."""
        sizes = {"samples": self.samples, "tokens": self.tokens}
        counted = fisher(self.shape.modules, self.vocabulary, core=self.adapters * self.rank, **sizes)
        return Point(x, partial(_collected, self), counted, partial(_plain, self))


@cache
def _model(shape: Shape) -> Any:
    return random_model(shape)


@cache
def _inside(sizes: _Pass) -> Any:
    adapters = [random_adapter(sizes.shape.modules, sizes.rank, seed=seed) for seed in range(sizes.adapters)]
    spaces = build_spaces(adapters)
    return spaces, point_cores(adapters, spaces)


@cache
def _text(sizes: _Pass) -> Any:
    return random_batches(sizes.vocabulary, samples=sizes.samples, tokens=sizes.tokens, batch=4)


def _collected(sizes: _Pass) -> object:
    spaces, point = _inside(sizes)
    return compute_fim(_model(sizes.shape), spaces, _text(sizes), point=point, structure="kronecker")


def _plain(sizes: _Pass) -> None:
    plain(_model(sizes.shape), _text(sizes))


def _fishers() -> list[Sweep]:
    def sweep(varied: str, held: str, law: str, made: Sequence[tuple[int, _Pass]]) -> Sweep:
        return Sweep("Fisher", varied, held, law, [sizes.point(x) for x, sizes in made])

    base = "2 adapters of rank 4, 2 layers of hidden size 128, 4096 tokens, 8 samples of 64"
    projections = "4 d s a token beside 4 d² of the layer, and 4 s²: 0, towards 2"
    return [
        sweep("samples", base, "every sample is read once: 1", [(n, _Pass(samples=n)) for n in (4, 8, 16, 32)]),
        sweep(
            "tokens of a sample",
            base,
            "weights times T, attention times T²: 1, towards 2",
            [(t, _Pass(tokens=t)) for t in (32, 64, 128, 256)],
        ),
        sweep("layers", base, "layers beside an output layer: below 1", [(n, _Pass(layers=n)) for n in (1, 2, 4, 8)]),
        sweep(
            "hidden size",
            base,
            "d² of the layers, d of the output layer: 1, towards 2",
            [(d, _Pass(hidden=d)) for d in (64, 128, 256, 512)],
        ),
        sweep(
            "adapters",
            base.replace("2 adapters of rank 4", "r = 1"),
            projections,
            [(n, _Pass(adapters=n, rank=1)) for n in (2, 10, 30, 100)],
        ),
        sweep(
            "rank",
            base.replace("rank 4", "rank r").replace("128", "256; from r = 128 on the spaces are whole"),
            projections,
            [(r, _Pass(hidden=256, rank=r)) for r in (4, 16, 64, 256)],
        ),
    ]
