"""Do the cells that are not done yet, in worker processes of one thread each, and store every one as it finishes."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import SSTMergeError
from ..executors import Executors, Workers, share_out
from ..progress import Progress
from .cells import Cell, CellStore
from .provenance import code_digest, commit, machine, versions

__all__ = ["Work", "Workers", "experiment_work", "finish_cells", "run_cells"]

_LOG = logging.getLogger("sst_merge.experiments")

Work = Callable[[Cell], dict[str, Any]]
"""From a cell to its result; a function at the top of a file, or a value that can be pickled."""


def experiment_work(cell: Cell) -> dict[str, Any]:
    """What the kind of a cell says, by :mod:`.work`.

    Args:
        cell: of an experiment.

    Returns:
        Its result.
    """
    from . import work  # torch is imported where cells are done, not where they are counted

    return work.WORK[cell.kind](cell.parameters)


def run_cells(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    workers: int | Executors = 1,
    stage: str = "cells",
    progress: Progress | None = None,
    again: bool = False,
) -> int:
    """Finish cells; those in the store are not done again, so that a killed run goes on where it stopped.

    Args:
        cells: in the order in which to start; every worker has a contiguous share of them, and takes from the end of
            another's when its own is done. Equal ones are done once.
        store: where finished cells are kept.
        workers: where they are done, or how many processes to start for them; with 1 in this process.
        stage: for the progress bar and the log.
        progress: called with (stage, done, total).
        again: do finished ones as well.

    Returns:
        How many cells were done now.

    Raises:
        SSTMergeError: cells failed; all others are finished and kept, and the message names every failure.
    """
    ended = finish_cells(cells, store, workers=workers, stage=stage, progress=progress, again=again)
    if ended.failures:
        first = next(iter(ended.failures.values()))
        raise SSTMergeError(
            f"{len(ended.failures)} of {ended.started} cells failed, the others are kept; first {first}"
        )
    return ended.started


@dataclass(frozen=True)
class Ended:
    """What came of some cells.

    Attributes:
        started: how many were not finished before.
        failures: key of a cell → its title and what was wrong.
    """

    started: int
    failures: dict[str, str] = field(default_factory=dict)


def finish_cells(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    work: Work = experiment_work,
    workers: int | Executors = 1,
    stage: str = "cells",
    progress: Progress | None = None,
    again: bool = False,
) -> Ended:
    """As :func:`run_cells`, for any work, and without raising where cells fail.

    Args:
        cells: as there.
        store: as there; it is written in this process alone.
        work: what is done with a cell.
        workers: as there.
        stage: as there.
        progress: as there.
        again: as there.

    Returns:
        How many were started, and which failed.
    """
    unique = list({cell.key: cell for cell in cells}.values())
    todo = [cell for cell in unique if again or not store.has(cell)]
    done = len(unique) - len(todo)
    _LOG.info("%s: %d cells, %d finished before", stage, len(unique), done)
    ended = Ended(len(todo))
    if progress is not None:
        progress(stage, done, len(unique))

    def finished(cell: Cell, found: "_Done") -> None:
        nonlocal done
        done += 1
        if found.error is None:
            store.save(cell, found.result, seconds=found.processor_seconds, run=found.run)
            _LOG.info("%s: %s in %.1f s", stage, cell.title, found.seconds)
        else:
            ended.failures[cell.key] = f"{cell.title}: {found.error}"
            _LOG.error("%s: %s failed: %s", stage, cell.title, found.error)
        if progress is not None:
            progress(stage, done, len(unique))

    if todo and isinstance(workers, int):
        with Workers(workers) as processes:
            share_out(partial(_do, work), todo, processes, finished)
    elif todo and not isinstance(workers, int):
        share_out(partial(_do, work), todo, workers, finished)
    return ended


@dataclass(frozen=True)
class _Done:
    """What came of one cell.

    Attributes:
        seconds: that passed.
        processor_seconds: that it took.
        result: plain values; None where it failed.
        error: what was wrong.
        run: where and by what it was done.
    """

    seconds: float
    processor_seconds: float = 0.0
    result: dict[str, Any] | None = None
    error: str | None = None
    run: dict[str, Any] = field(default_factory=dict)


def _do(work: Work, cell: Cell) -> _Done:
    started, used = time.perf_counter(), _cpu_seconds()
    try:
        result = work(cell)
    except SSTMergeError as error:
        return _Done(time.perf_counter() - started, error=str(error))
    run = {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "code": code_digest(f"{__package__}.work" if work is experiment_work else work.__module__),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # A process that was not started from here is in no sum of this one's children, and says itself what it took.
    elsewhere = result.pop("processor_seconds", 0.0)
    return _Done(time.perf_counter() - started, _cpu_seconds() - used + elsewhere, result, run=run)


def _cpu_seconds() -> float:
    """Of this process and of children that have ended: what a cell takes on a machine that has nothing else to do."""
    return sum(os.times()[:4])
