"""The updates of one layer, one after the other or in blocks of rows, and never stacked.

So a method needs a handful of matrices, or of blocks, however many adapters there are.
"""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from .. import Layer

__all__ = ["blocks", "by_rows", "row_blocks", "scaled", "sum_of", "weighted_rows", "weighted_updates"]

BLOCK = 1 << 17
"""Numbers in a block: half a megabyte of float32, which stays in the processor's cache."""


def weighted_updates(layer: Layer) -> Iterator[Tensor]:
    """wᵢ τᵢ of one adapter after the other."""
    for patch, weight in zip(layer.patches, layer.weights, strict=True):
        yield scaled(patch, weight)


def weighted_rows(layer: Layer, rows: slice) -> Iterator[Tensor]:
    """Some rows of wᵢ τᵢ, one adapter after the other."""
    for index, weight in enumerate(layer.weights):
        yield scaled(layer.rows(index, rows), weight)


def scaled(update: Tensor, weight: float) -> Tensor:
    """w·τ, the update itself where w = 1."""
    return update if weight == 1.0 else weight * update


def sum_of(updates: Iterable[Tensor]) -> Tensor:
    """Σᵢ uᵢ of at least one update, one after the other; none of them is changed."""
    parts = iter(updates)
    total = next(parts).clone()
    for update in parts:
        total += update
    return total


def by_rows(layer: Layer, merge: Callable[[slice], Tensor]) -> Tensor:
    """A merged ΔW (d_out, d_in) put together from blocks of rows."""
    merged: Tensor | None = None
    for rows in row_blocks(layer.shape):
        block = merge(rows)
        if merged is None:
            merged = block.new_empty(layer.shape)
        merged[rows] = block
    assert merged is not None
    return merged


def row_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    """Rows in blocks of half a megabyte of float32: temporaries stay in the processor's cache."""
    yield from blocks(shape[0], max(1, BLOCK // max(1, shape[1])))


def blocks(size: int, step: int = BLOCK) -> Iterator[slice]:
    """A range cut into blocks; the last one may be shorter."""
    for start in range(0, size, step):
        yield slice(start, start + step)
