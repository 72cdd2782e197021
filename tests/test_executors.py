"""Pieces of work go to any executor: each is done once, and what a killed machine lost is done again elsewhere."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sst_merge.errors import ConfigError, SSTMergeError
from sst_merge.executors import DaskWorkers, Workers, share_out
from sst_merge.experiments.cells import Cell, CellStore
from sst_merge.experiments.runner import finish_cells


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


def test_a_piece_at_which_one_machine_after_the_other_dies_is_given_up() -> None:
    killed = type("KilledWorker", (Exception,), {"__doc__": "As Dask calls it."})

    def die(_: int) -> None:
        raise killed("four of them")

    with pytest.raises(SSTMergeError, match="several workers died one after another at the same piece"):
        share_out(die, range(2), Threads(), lambda *_: None)


class Work:
    """A cell's work that kills its worker the first time that it is done."""

    def __init__(self, marks: Path, victim: int) -> None:
        self.marks, self.victim = marks, victim

    def __call__(self, cell: Cell) -> dict[str, Any]:
        number = cell.parameters["number"]
        with (self.marks / f"{number}").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        first = len((self.marks / f"{number}").read_text().splitlines()) == 1
        if number == self.victim and first and os.getpid() != int((self.marks / "parent").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return {"square": number**2, "third": number / 3}


def contents(store: CellStore) -> dict[str, Any]:
    """Everything but when, where and how fast."""
    import json

    kept = {path.name: json.loads(path.read_text()) for path in sorted(store.folder.rglob("*.json"))}
    return {name: {**cell, "seconds": 0, "run": 0} for name, cell in kept.items()}


@pytest.mark.slow(10)
def test_a_dask_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    marks = tmp_path / "marks"
    marks.mkdir()
    (marks / "parent").write_text(str(os.getpid()))
    cells = [Cell("square", f"cell {n}", {"number": n}) for n in range(8)]
    there, here = CellStore(tmp_path / "there"), CellStore(tmp_path / "here")
    quiet = {"silence_logs": 60, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, **quiet) as cluster,
        DaskWorkers(cluster.scheduler_address) as workers,
    ):
        ended = finish_cells(cells, there, work=Work(marks, victim=3), workers=workers)
    assert (ended.started, ended.failures) == (8, {})
    assert len((marks / "3").read_text().splitlines()) == 2, "killed once, done again"
    assert len({(marks / f"{n}").read_text().splitlines()[-1] for n in range(8)}) > 1
    finish_cells(cells, here, work=Work(marks, victim=-1))
    assert contents(there) == contents(here)


def stub(monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any], version: str) -> dict[str, Any]:
    """A scheduler with such workers, and what was asked of it."""
    asked: dict[str, Any] = {}

    class Client:
        def __init__(self, **place: Any) -> None:
            asked.update(place)

        def wait_for_workers(self, *_: object, **__: object) -> None:
            if not workers:
                raise TimeoutError

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
