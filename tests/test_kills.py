"""Killed at any point, and run again: the same bytes, and no litter.

A child is forked and kills itself just before its n-th operation on a file or folder of the test, n drawn over all of
them; or some milliseconds after its start. Then the same command runs to its end. ``make kills`` kills 240 times, the
suite 20; the environment variable SST_MERGE_KILLS says how often.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sst_merge.cli.main import cli, main
from sst_merge.evaluation import summarize
from sst_merge.evaluation.output import check_output, write_results
from sst_merge.files import atomic_file
from sst_merge.suites import available_suites

KILLS = int(os.environ.get("SST_MERGE_KILLS", "20"))


def held(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, empty folders too."""
    return {
        found.relative_to(folder).as_posix(): found.read_bytes() if found.is_file() else None
        for found in sorted(folder.rglob("*"))
    }


def forked(
    work: Callable[[], None], watch: Path, *, at: int = 0, after_s: float = 0.0, by: int = signal.SIGKILL
) -> tuple[int, int]:
    """Run in a child, killed at an operation or after a time; (exit status or −signal, operations seen)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
            _run(work, str(watch), write, at, after_s, by)
        finally:
            os._exit(70)
    os.close(write)
    with os.fdopen(read) as stream:
        seen = stream.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(seen or 0)


def _run(work: Callable[[], None], watch: str, report: int, at: int, after_s: float, by: int) -> None:
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        place = arguments[0] if arguments else None
        ours = isinstance(place, str | os.PathLike) and os.fspath(place).startswith(watch)
        if (ours and event.partition(".")[0] in {"open", "os", "shutil", "tempfile"}) or event == "ctypes.dlsym":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), by)

    sys.addaudithook(count)
    if after_s:
        threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    status = 0
    try:
        work()
    except SystemExit as error:
        status = int(error.code or 0)
    os.write(report, str(seen).encode())
    os._exit(status)


def command(*words: object) -> Callable[[], None]:
    return lambda: cli([str(word) for word in words], prog_name="sst-merge")


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters."""
    root = tmp_path_factory.mktemp("adapters")
    for seed in (1, 2):
        shapes = {f"model.layers.{i}.q_proj": (6, 5) for i in range(2)}
        build.random_adapter(shapes, name=f"a{seed}", rank=1, seed=seed).save(root / f"a{seed}")
    # Once here, so that not every child imports everything.
    with pytest.raises(SystemExit):
        merging(root, root / "warm")()
    return root


def merging(place: Path, out: Path) -> Callable[[], None]:
    return command("merge", "--adapter", place / "a1", "--adapter", place / "a2", "--output", out)


def replacing(place: Path, out: Path) -> Callable[[], None]:
    words = ("merge", "--adapter", place / "a1", "--adapter", place / "a2", "--method", "ties", "--output", out)
    return command(*words, "--force")


def evaluating(some_records: Any, out: Path, *, force: bool) -> Callable[[], None]:
    """What an evaluation does when all is answered, with its cache elsewhere."""
    records = some_records()
    groups = {key: [r for r in records if (r.model, r.suite) == key] for key in {(r.model, r.suite) for r in records}}
    summary = summarize(records, available_suites())
    facts = {
        "format": "sst_merge.evaluation/1",
        "forced": force,
        "chat_template": {"used": False},
        "base": {"name": "b"},
        "exclude": [],
    }
    names = ("samples", "seed", "backend", "batch_size", "model", "judges", "versions", "suites")

    def work() -> None:
        check_output(out, force=force)
        write_results(out, dict(sorted(groups.items())), summary, {**facts, **{name: {} for name in names}})

    return work


def writing(out: Path) -> Callable[[], None]:
    def work() -> None:
        with atomic_file(out / "a.json") as aside:
            aside.write_text("new", encoding="utf-8")

    return work


KINDS = ("merge", "merge --force", "evaluate", "evaluate --force", "file")


@pytest.fixture
def scene(
    place: Path, some_records: Any, tmp_path: Path
) -> Callable[[str], tuple[Callable[[], None], Callable[[], None]]]:
    """Kind → what makes the state before it, and the work itself."""
    out = tmp_path / "out"

    def made(kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        match kind:
            case "merge":
                return (lambda: None), merging(place, out)
            case "merge --force":
                return merging(place, out), replacing(place, out)
            case "evaluate":
                return (lambda: None), evaluating(some_records, out, force=False)
            case "evaluate --force":
                return evaluating(some_records, out, force=False), evaluating(some_records, out, force=True)
        return (lambda: (out.mkdir(), (out / "a.json").write_text("old"))), writing(out)  # type: ignore[func-returns-value]

    return made


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_and_run_again(kind: str, scene: Any, tmp_path: Path) -> None:
    before, work = scene(kind)
    assert forked(before, tmp_path)[0] == 0
    old = held(tmp_path)
    started = time.monotonic()
    status, operations = forked(work, tmp_path)
    took = time.monotonic() - started
    assert status == 0 and operations > 5
    wanted = held(tmp_path)
    assert wanted != old
    draw = random.Random(kind)
    times = max(1, KILLS // len(KINDS))
    points: list[dict[str, Any]] = [{"at": draw.randint(1, operations)} for _ in range(times - times // 4)]
    points += [{"after_s": draw.uniform(0.001, took)} for _ in range(times // 4)]
    for point in points:
        _restore(tmp_path, old)
        status, _ = forked(work, tmp_path, **point)
        assert status in {-signal.SIGKILL, 0}
        found = {name: content for name, content in held(tmp_path).items() if "/." not in f"/{name}"}
        # An evaluation's folder is whole where its seal is; everything else always.
        if not kind.startswith("evaluate") or "out/summary.json" in found:
            assert found in (old, wanted), point
        again, _ = forked(work, tmp_path)
        assert held(tmp_path) == wanted, (point, again)
        # Only what was complete already may be refused the second time.
        assert again == 0 or found == wanted, point


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    words = ["merge", "--adapter", place / "a1", "--adapter", place / "a2", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["sst-merge", *map(str, words)])
    _, operations = forked(main, tmp_path)
    for at in (operations // 3, operations // 2):
        _restore(tmp_path, {})
        assert forked(main, tmp_path, at=at, by=by)[0] == 128 + by
        assert list(tmp_path.iterdir()) == []


def _restore(folder: Path, state: dict[str, bytes | None]) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
