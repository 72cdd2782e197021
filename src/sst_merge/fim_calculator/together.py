"""One Fisher by several processes: each takes every n-th batch, keeps its part on disk, and one sum ends it.

A part is added up piece by piece, and the pieces do not depend on when it was written: a process that was killed and
goes on from its file ends in the same bits as one that was not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any

import torch

from .. import processes
from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from .gathering import Gathering
from .kept_parts import KeptParts
from .structures import LayerFisher

__all__ = ["gathered_together"]

_PIECE = 16
"""Batches that are added up before they can be written."""

Layers = dict[str, LayerFisher]


def gathered_together(
    start: Callable[[], Gathering],
    kind: type[LayerFisher],
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    *,
    parts: KeptParts | None = None,
    progress: Callable[[int], None] | None = None,
) -> Layers:
    """The statistics of all batches, the same bits in every process.

    Args:
        start: begins a new piece.
        kind: structure of the statistics.
        spaces: of the modules that are looked at.
        batches: the same in every process.
        parts: where this process keeps its part.
        progress: called with the number of samples that all processes have about done.

    Returns:
        Module to statistics; samples are in the order of the batches.
    """
    part, done = (None, 0) if parts is None else parts.load()
    gathering, own, seen = start(), 0, 0
    for index, batch in enumerate(batches):
        seen += len(batch)
        turn = processes.mine(index)
        own += turn
        if not turn or own <= done:
            gathering.skip(batch)
            continue
        gathering.take(batch, index)
        if own % _PIECE == 0:
            part, gathering = _plus(part, gathering), start()
            if parts is not None:
                parts.save_when_due(part, own)
        if progress is not None:
            progress(seen)
    if gathering.samples:
        part = _plus(part, gathering)
    if parts is not None and part is not None and own > done:
        parts.save(part, own)
    what = f"{kind.structure} Fisher of {seen} samples and {len(spaces)} modules"
    found = _field_by_field(what, kind, spaces, part) if kind.adds_by_field() else _one_by_one(what, part, batches)
    if progress is not None:
        progress(seen)
    return found


def _plus(part: Layers | None, piece: Gathering) -> Layers:
    layers = piece.layers()
    return layers if part is None else {module: part[module] + layer for module, layer in layers.items()}


def _field_by_field(what: str, kind: type[LayerFisher], spaces: Mapping[str, CoreSpace], part: Layers | None) -> Layers:
    """All tensors and counts of all modules in one sum."""
    stored: dict[str, dict[str, Any]] = {}
    for module, space in spaces.items():
        # Where there are fewer batches than processes, one has nothing to add.
        none = {"samples": 0} | (kind.sums(space.shape, torch.device("cpu")).finish() if part is None else {})
        stored[module] = none if part is None else {**part[module].tensors(), **part[module].counts()}
    counts = [(module, name) for module in stored for name, value in stored[module].items() if isinstance(value, int)]
    counted = torch.tensor([stored[module][name] for module, name in counts], dtype=torch.float64)
    sums = [
        value for fields in stored.values() for _, value in sorted(fields.items()) if isinstance(value, torch.Tensor)
    ]
    processes.add_up(what, [*sums, counted])
    for (module, name), value in zip(counts, counted.tolist(), strict=True):
        stored[module][name] = int(value)
    return {module: kind(**fields) for module, fields in stored.items()}


def _one_by_one(what: str, part: Layers | None, batches: Sequence[Batch]) -> Layers:
    """Parts added in the order of the processes, for structures that keep more than sums."""
    parts = [found for found in processes.from_all(what, part) if found is not None]
    starts = list(accumulate((len(batch) for batch in batches), initial=0))
    turns = [range(rank, len(batches), processes.count()) for rank in range(processes.count())]
    places = torch.cat([torch.arange(starts[i], starts[i + 1]) for turn in turns for i in turn])
    order = places.argsort()
    return {module: reduce(add, [found[module] for found in parts]).reordered(order) for module in parts[0]}
