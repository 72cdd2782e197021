"""Do the cells that are not done yet, in worker processes of one thread each, and store every one as it finishes."""

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for

from ..errors import SSTMergeError
from ..progress import Progress
from ..threads import one_thread
from .cells import Cell, CellStore
from .provenance import code_digest, commit, machine, versions

__all__ = ["Workers", "run_cells"]

_LOG = logging.getLogger("sst_merge.experiments")


class Workers:
    """Processes of one thread each, started when they are first needed and kept until the end of a ``with`` block.

    Args:
        count: of the processes; with 1 the work is done in this one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def pools(self, count: int) -> list[ProcessPoolExecutor]:
        """The first ``count`` processes, one a pool, so that each can be given its own share of the work.

        Args:
            count: at most the number of processes.

        Returns:
            The pools.
        """
        context = multiprocessing.get_context("spawn")
        while len(self._pools) < count:
            self._pools.append(ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker))
        return self._pools[:count]


def run_cells(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    workers: int | Workers = 1,
    stage: str = "cells",
    progress: Progress | None = None,
    again: bool = False,
) -> int:
    """Finish cells; those in the store are not done again, so that a killed run goes on where it stopped.

    Args:
        cells: in the order in which to start; every worker has a contiguous share of them, and takes from the end of
            another's when its own is done. Equal ones are done once.
        store: where finished cells are kept.
        workers: processes, or how many to start for these cells; with 1 the work is done in this process.
        stage: for the progress bar and the log.
        progress: called with (stage, done, total).
        again: do finished ones as well.

    Returns:
        How many cells were done now.

    Raises:
        SSTMergeError: cells failed; all others are finished and kept, and the message names every failure.
    """
    unique = list({cell.key: cell for cell in cells}.values())
    todo = [cell for cell in unique if again or not store.has(cell)]
    done = len(unique) - len(todo)
    _LOG.info("%s: %d cells, %d finished before", stage, len(unique), done)
    failures: list[str] = []
    if progress is not None:
        progress(stage, done, len(unique))

    def finished(cell: Cell, seconds: float, error: str | None) -> None:
        nonlocal done
        done += 1
        if error is None:
            _LOG.info("%s: %s in %.1f s", stage, cell.title, seconds)
        else:
            failures.append(f"{cell.title}: {error}")
            _LOG.error("%s: %s failed: %s", stage, cell.title, error)
        if progress is not None:
            progress(stage, done, len(unique))

    count = workers if isinstance(workers, int) else workers.count
    if count == 1 or len(todo) == 1:
        # As the worker processes: the order of float additions depends on the number of threads.
        with one_thread():
            for cell in todo:
                finished(cell, *_do(cell, store))
    elif todo:
        with Workers(workers) if isinstance(workers, int) else contextlib.nullcontext(workers) as processes:
            _in_processes(todo, store, processes, finished)
    if failures:
        raise SSTMergeError(f"{len(failures)} of {len(todo)} cells failed, the others are kept; first {failures[0]}")
    return len(todo)


def _in_processes(
    todo: Sequence[Cell], store: CellStore, workers: Workers, finished: Callable[[Cell, float, str | None], None]
) -> None:
    """Each worker takes the next cell of its own share, then the last of another's."""
    shares = _shares(todo, workers.count)
    pools = workers.pools(len(shares))
    running: dict[Future[tuple[float, str | None]], tuple[int, Cell]] = {}
    for number, share in enumerate(shares):
        first = share.pop(0)
        running[pools[number].submit(_do, first, store)] = (number, first)
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            number, cell = running.pop(future)
            finished(cell, *future.result())
            # A worker without work takes from the end of the longest share.
            source = shares[number] or max(shares, key=len)
            if source:
                following = source.pop(0 if source is shares[number] else -1)
                running[pools[number].submit(_do, following, store)] = (number, following)


def _shares(cells: Sequence[Cell], workers: int) -> list[list[Cell]]:
    """Contiguous pieces of about equal length."""
    size = -(-len(cells) // workers)
    return [list(cells[start : start + size]) for start in range(0, len(cells), size)]


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # it may only be set before the first parallel work
        torch.set_num_interop_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _do(cell: Cell, store: CellStore) -> tuple[float, str | None]:
    from . import work  # torch is imported where cells are done, not where they are counted

    started, used = time.perf_counter(), _cpu_seconds()
    try:
        result = work.WORK[cell.kind](cell.parameters)
    except SSTMergeError as error:
        return time.perf_counter() - started, str(error)
    seconds = time.perf_counter() - started
    run = {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "code": code_digest(work.__name__),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # A process that was not started from here is in no sum of this one's children, and says itself what it took.
    elsewhere = result.pop("processor_seconds", 0.0)
    store.save(cell, result, seconds=_cpu_seconds() - used + elsewhere, run=run)
    return seconds, None


def _cpu_seconds() -> float:
    """Of this process and of children that have ended: what a cell takes on a machine that has nothing else to do."""
    return sum(os.times()[:4])
