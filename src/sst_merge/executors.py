"""Where work is done that falls into pieces: in this process, in processes beside it, or on machines of a Dask cluster.

Whoever has the pieces hands them to :func:`share_out` with any :class:`concurrent.futures.Executor`. A piece is a
function and a value that can be pickled; it gives the same result wherever it is done, and is done again where a
machine was lost.
"""

import asyncio
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ._version import __version__
from .errors import ConfigError, SSTMergeError
from .threads import one_thread

__all__ = ["DaskWorkers", "Executors", "Workers", "share_out", "workers_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executors(Protocol):
    """Executors for one run, each of which gets a share of the work."""

    def __enter__(self) -> "Executors":
        """Ready to work."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what was started."""

    def pools(self, pieces: int) -> Sequence[Executor]:
        """Executors for so many pieces of work, at most one a piece; none where this process does it itself."""


class Workers:
    """Processes of one thread each, started when they are first needed and kept until the end of a ``with`` block.

    Where the block ends by an exception, a signal to end among them, what they are at is given up at once.

    Args:
        count: of the processes; with 1 the work is done in this one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pools: list[ProcessPoolExecutor] = []
        self._wanted: list[Connection] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for wanted in self._wanted:
                wanted.close()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)
        for wanted in self._wanted:
            wanted.close()

    def pools(self, pieces: int) -> Sequence[Executor]:
        """As :meth:`Executors.pools`: one process a pool, so that each can be given its own share of the work."""
        count = min(self.count, pieces)
        if count < 2:
            return []
        context = multiprocessing.get_context("spawn")
        while len(self._pools) < count:
            wanted, here = context.Pipe(duplex=False)
            self._wanted.append(here)
            self._pools.append(
                ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker, initargs=(wanted,))
            )
        return self._pools[:count]


class DaskWorkers:
    """The workers of a Dask scheduler, wherever they run.

    Workers have one thread, for a model serves one piece of work at a time; files are read at the same paths as here.
    Where workers have the resource ``GPU``, every piece takes one of it.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``, or a file that it wrote (``--scheduler-file``).
        seconds: to wait for the scheduler and a first worker.
    """

    def __init__(self, address: str, *, seconds: float = 60.0) -> None:
        self.address, self._seconds = address, seconds
        self._client: Any = None
        self._executor: Any = None

    def __enter__(self) -> "DaskWorkers":
        """Connect.

        Raises:
            ConfigError: Dask is not installed, nobody answers there, or the workers do not fit.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise ConfigError("--scheduler needs Dask: pip install 'sst-merge[dask]'") from error
        place = {"scheduler_file": self.address} if self.address.endswith(".json") else {"address": self.address}
        try:
            self._client = Client(**place, timeout=self._seconds, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--scheduler {self.address}: no scheduler answers there ({type(error).__name__}); expected an address "
                "such as tcp://host:8786, or the file of `dask scheduler --scheduler-file FILE.json`"
            ) from error
        try:
            self._connect()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=error is None)
        self._client.close()

    def pools(self, pieces: int) -> Sequence[Executor]:
        """As :meth:`Executors.pools`: all is handed over at once, so that a cluster that grows by itself sees it."""
        return [self._executor] * pieces

    def _connect(self) -> None:
        """Hold the workers against what they must be.

        Raises:
            ConfigError: none came, one has several threads, or another version of this package.
        """
        try:
            self._client.wait_for_workers(1, timeout=self._seconds)
        except (TimeoutError, asyncio.TimeoutError) as error:  # two classes under Python 3.10
            raise ConfigError(
                f"--scheduler {self.address}: no worker came within {self._seconds:g} s; start some, such as "
                f"dask worker {self.address} --nthreads 1"
            ) from error
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        threaded = [name for name, of in workers.items() if of["nthreads"] != 1]
        if threaded:
            raise ConfigError(
                f"--scheduler {self.address}: worker {threaded[0]} has {workers[threaded[0]]['nthreads']} threads; a "
                "model serves one piece of work at a time, so start workers with --nthreads 1 (and --nworkers N)"
            )
        other = {name: of for name, of in self._client.run(_package_version).items() if of != __version__}
        if other:
            name, version = next(iter(other.items()))
            raise ConfigError(
                f"--scheduler {self.address}: worker {name} has sst-merge {version}, here is {__version__}; install "
                "the same version everywhere"
            )
        gpus = any("GPU" in of["resources"] for of in workers.values())
        self._executor = self._client.get_executor(pure=False, **({"resources": {"GPU": 1}} if gpus else {}))


def workers_of(count: int, scheduler: str | None) -> "Workers | DaskWorkers":
    """What ``--workers`` and ``--scheduler`` stand for; a scheduler wins, for it knows how many workers it has."""
    return Workers(count) if scheduler is None else DaskWorkers(scheduler)


def share_out(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    executors: Executors,
    finished: Callable[[Item, Result], None],
) -> None:
    """Do pieces of work, each in whichever process is free.

    Args:
        work: what is done with each; where it runs elsewhere, it stands at the top of a file.
        items: what it is done with, neighbours together where they share something. Every executor has a contiguous
            share, and takes from the end of another's when its own is done.
        executors: who does it.
        finished: told in this process, piece by piece as they end.

    Raises:
        SSTMergeError: a process beside this one died, or several of a cluster's at one piece.
    """
    pools = executors.pools(len(items)) if len(items) > 1 or isinstance(executors, DaskWorkers) else []
    if not pools:
        # As the worker processes: the order of float additions depends on the number of threads.
        with one_thread():
            for item in items:
                finished(item, work(item))
        return
    shares = _shares(items, len(pools))
    running: dict[Future[Result], tuple[int, Item]] = {}

    def start(number: int, item: Item) -> None:
        running[pools[number].submit(_alone, work, item)] = (number, item)

    try:
        for number, share in enumerate(shares):
            start(number, share.pop(0))
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, item = running.pop(future)
                finished(item, _result(future))
                # A worker without work takes from the end of the longest share.
                source = shares[number] or max(shares, key=len)
                if source:
                    start(number, source.pop(0 if source is shares[number] else -1))
    except BrokenProcessPool as error:
        raise SSTMergeError(
            "a worker process was killed, as systems do when memory runs out, or could not start; what is finished is "
            "kept: run again with fewer --workers"
        ) from error


def _end_with_parent(wanted: Connection) -> None:
    """In a thread of a worker process: end the process when its parent is gone; it would wait for work forever.

    Args:
        wanted: ends it as well, when the parent closes the other end.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel, wanted])
        os._exit(1)


def _alone(work: Callable[[Item], Result], item: Item) -> Result:
    with one_thread():
        return work(item)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        raise SSTMergeError(
            f"several workers died one after another at the same piece of work, so it is not tried again ({error}); "
            "look into their logs, and give them more memory if that was it"
        ) from error


def _shares(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Contiguous pieces whose lengths differ by one at most."""
    n = len(items)
    return [list(items[i * n // count : (i + 1) * n // count]) for i in range(count)]


def _package_version() -> str:
    return __version__


def _start_worker(wanted: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # it may only be set before the first parallel work
        torch.set_num_interop_threads(1)
    threading.Thread(target=_end_with_parent, args=(wanted,), daemon=True).start()
