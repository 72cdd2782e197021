"""Pieces of work go to any executor: each is done once, and what a killed machine lost is done again elsewhere."""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sst_merge.errors import ConfigError, SSTMergeError
from sst_merge.executors import DaskWorkers, Workers, share_out


class Threads:
    """Any executors: here two of one thread each."""

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pools(self, pieces: int) -> Sequence[Executor]:
        return [ThreadPoolExecutor(1) for _ in range(min(2, pieces))]


@pytest.mark.parametrize("executors", [Workers(1), Threads()])
def test_every_piece_is_done_once(executors: Any) -> None:
    found: list[tuple[int, int]] = []
    share_out(lambda n: n * n, range(7), executors, lambda n, square: found.append((n, square)))
    assert sorted(found) == [(n, n * n) for n in range(7)]


class Counted(ThreadPoolExecutor):
    """Knows what it was given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given: list[int] = []

    def submit(self, work: Any, /, *given: Any, **named: Any) -> Any:
        self.given.append(given[-1])
        return super().submit(work, *given, **named)


class Few(Threads):
    """So many of one thread each."""

    def __init__(self, count: int) -> None:
        self.of = [Counted() for _ in range(count)]

    def pools(self, pieces: int) -> Sequence[Executor]:
        return self.of[:pieces]


@pytest.mark.parametrize(("pieces", "count", "first"), [(5, 4, [0, 1, 2, 3]), (7, 3, [0, 2, 4]), (2, 4, [0, 1])])
def test_nobody_goes_without_work(pieces: int, count: int, first: list[int]) -> None:
    executors = Few(count)
    found: list[int] = []
    share_out(lambda n: n, range(pieces), executors, lambda n, _: found.append(n))
    assert [pool.given[0] for pool in executors.of if pool.given] == first
    assert sorted(found) == list(range(pieces))


def test_a_piece_at_which_one_machine_after_the_other_dies_is_given_up() -> None:
    killed = type("KilledWorker", (Exception,), {"__doc__": "As Dask calls it."})

    def die(_: int) -> None:
        raise killed("four of them")

    with pytest.raises(SSTMergeError, match="several workers died one after another at the same piece"):
        share_out(die, range(2), Threads(), lambda *_: None)


@pytest.mark.parametrize("where", ["at the piece", "before it"])
def test_what_was_finished_before_a_process_was_killed_is_kept(where: str) -> None:
    """Broken is what a process pool says of a piece, or when it is given one, if its process is no more."""

    class Beside(Threads):
        def pools(self, pieces: int) -> Sequence[Executor]:
            return [Beside.Pool(1)]

        class Pool(ThreadPoolExecutor):
            def submit(self, work: Any, /, *given: Any, **named: Any) -> Any:
                if given[-1] == 1 and where == "before it":
                    raise BrokenProcessPool
                return super().submit(work, *given, **named)

    def die(number: int) -> None:
        if number == 1:
            raise BrokenProcessPool

    found: list[int] = []
    with pytest.raises(SSTMergeError, match=r"a worker process was killed.*fewer --workers"):
        share_out(die, range(3), Beside(), lambda number, _: found.append(number))
    assert found == [0]


# Stands in a file of its own, which workers import; so does a torch that costs nothing to import.
PIECES = """
import os, signal
from pathlib import Path

def third(piece):
    marks, number, victim = piece
    mark = Path(marks, str(number))
    with mark.open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    if number == victim and len(mark.read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"third": number / 3}
"""
TORCH = "def get_num_threads():\n    return 1\ndef set_num_threads(count):\n    pass\n"


def test_a_dask_worker_that_is_killed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    library, marks, file = tmp_path / "library", tmp_path / "marks", tmp_path / "scheduler.json"
    library.mkdir(), marks.mkdir()
    (library / "pieces.py").write_text(PIECES)
    (library / "torch.py").write_text(TORCH)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(library), *sys.path])}
    python, place = [sys.executable, "-m"], ["--scheduler-file", str(file)]
    commands = [[*python, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *place]]
    worker = [*python, "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", *place]
    commands += [[*worker, "--local-directory", str(tmp_path / str(n))] for n in range(3)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": tmp_path}
    started = [subprocess.Popen(command, **quiet) for command in commands]  # type: ignore[call-overload]
    monkeypatch.syspath_prepend(str(library))
    found: dict[str, dict[int, bytes]] = {"there": {}, "here": {}}
    try:
        deadline = time.monotonic() + 300
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        third = importlib.import_module("pieces").third
        with DaskWorkers(str(file), seconds=300) as workers:
            share_out(
                third,
                [(str(marks), number, 3) for number in range(8)],
                workers,
                lambda piece, result: found["there"].update({piece[1]: json.dumps(result).encode()}),
            )
        killed = [process.wait(60) for process in started[1:] if process.poll() is not None]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert len((marks / "3").read_text().splitlines()) == 2 and killed == [-signal.SIGKILL], "killed once, done again"
    done = [(str(tmp_path / "marks"), number, -1) for number in range(8)]
    share_out(third, done, Workers(1), lambda p, result: found["here"].update({p[1]: json.dumps(result).encode()}))
    assert found["there"] == found["here"] and len(found["here"]) == 8


def stub(monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any], version: str) -> dict[str, Any]:
    """A scheduler with such workers, and what was asked of it."""
    asked: dict[str, Any] = {}

    class Client:
        def __init__(self, **place: Any) -> None:
            asked.update(place)

        def wait_for_workers(self, *_: object, **__: object) -> None:
            if not workers:
                raise asyncio.TimeoutError  # Dask's is a kind of it, which Python 3.10 does not take for a TimeoutError

        def scheduler_info(self, **_: object) -> dict[str, Any]:
            return {"workers": workers}

        def run(self, _: object) -> dict[str, str]:
            return dict.fromkeys(workers, version)

        def get_executor(self, **how: Any) -> Any:
            asked["executor"] = how
            return SimpleNamespace(shutdown=lambda **_: None)

        def close(self) -> None:
            asked["closed"] = True

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    return asked


@pytest.mark.parametrize(
    ("workers", "version", "said"),
    [
        ({}, "", "no worker came within 60 s"),
        ({"w": {"nthreads": 4, "resources": {}}}, "", "worker w has 4 threads.*--nthreads 1"),
        ({"w": {"nthreads": 1, "resources": {}}}, "0.0", "worker w has sst-merge 0.0"),
    ],
)
def test_workers_that_do_not_fit_are_refused(
    workers: dict[str, Any], version: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stub(monkeypatch, workers, version)
    with pytest.raises(ConfigError, match=said), DaskWorkers("tcp://there:8786"):
        pass
    assert asked["closed"] and asked["address"] == "tcp://there:8786"


def test_gpus_are_dealt_out_by_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    from sst_merge import __version__

    one = {"nthreads": 1, "resources": {"GPU": 1.0}}
    asked = stub(monkeypatch, {"a": one, "b": one}, __version__)
    with DaskWorkers("scheduler.json") as workers:
        assert len(workers.pools(5)) == 5
    assert asked["executor"] == {"pure": False, "resources": {"GPU": 1}} and asked["scheduler_file"] == "scheduler.json"


def test_without_dask_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'sst-merge\[dask\]'"), DaskWorkers("tcp://there:8786"):
        pass
