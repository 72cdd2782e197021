"""Files and folders that are whole or absent: errors, kills, several processes at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sst_merge.errors import OutputExistsError
from sst_merge.files import atomic_file, atomic_folder, file_sha256, sealed_files, synced, unfinished


def held(folder: Path) -> dict[str, str]:
    """Everything below a folder: relative name → text."""
    return {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "figures.json"
    with atomic_file(path) as aside:
        aside.write_text("new", encoding="utf-8")
        assert not path.exists()
        assert aside.parent == path.parent
    assert held(tmp_path) == {"deep/figures.json": "new"}
    with atomic_file(str(path)) as aside:
        aside.write_text("newer", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "new"
    assert held(tmp_path) == {"deep/figures.json": "newer"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), atomic_file(path) as aside:
        aside.write_text("half", encoding="utf-8")
        raise error
    assert held(tmp_path) == {"figures.json": "old"}


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError), atomic_file(path):
        pass
    assert held(tmp_path) == {"figures.json": "old"}


def test_threads_that_write_one_file_do_not_share_a_place(tmp_path: Path) -> None:
    path, both = tmp_path / "figures.json", threading.Barrier(2)
    places: list[Path] = []

    def write(text: str) -> None:
        with atomic_file(path) as aside:
            places.append(aside)
            aside.write_text(text, encoding="utf-8")
            both.wait(timeout=30)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 2
    assert held(tmp_path) in ({"figures.json": "one"}, {"figures.json": "two"})


KILLED = """
import os, signal, sys
from pathlib import Path
from sst_merge.files import atomic_file, atomic_folder, sealed_files
name, place = sys.argv[1], Path(sys.argv[2])
opened = {
    "file": lambda: atomic_file(place / "a"),
    "folder": lambda: atomic_folder(place, force=True),
    "sealed": lambda: sealed_files(place, seal="a"),
}[name]()
with opened as aside:
    target = aside if name == "file" else aside / "a"
    target.write_text("half", encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["file", "folder", "sealed"])
def test_a_killed_process_leaves_the_old_content(tmp_path: Path, name: str) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "a").write_text("old", encoding="utf-8")
    (place / "b").write_text("older", encoding="utf-8")
    run = subprocess.run([sys.executable, "-c", KILLED, name, str(place)], env=dict(os.environ), check=False)
    assert run.returncode == -signal.SIGKILL
    assert {n: text for n, text in held(place).items() if not n.startswith(".")} == {"a": "old", "b": "older"}
    # What the dead process left does not stand in the way of the next one.
    with atomic_folder(place, force=True) as folder:
        (folder / "a").write_text("new", encoding="utf-8")
    assert held(place) == {"a": "new"}


@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "out"
    if there:
        place.mkdir()
        (place / "a").write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), atomic_folder(place, force=True) as folder:
        (folder / "a").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert held(tmp_path) == ({"out/a": "old"} if there else {})
    assert list(tmp_path.iterdir()) == ([place] if there else [])


def test_a_folder_is_replaced_on_demand_alone(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with atomic_folder(place) as folder:
        (folder / "a").write_text("old", encoding="utf-8")
    assert place.stat().st_mode & 0o777 == tmp_path_mode(tmp_path)
    with pytest.raises(OutputExistsError, match="exists already"), atomic_folder(place):
        pytest.fail("the block must not run")
    with atomic_folder(place, force=True) as folder:
        (folder / "b").write_text("new", encoding="utf-8")
    assert held(tmp_path) == {"out/b": "new"}
    assert list(tmp_path.iterdir()) == [place]


def tmp_path_mode(tmp_path: Path) -> int:
    """Permissions that a plain mkdir gives here."""
    plain = tmp_path / "plain"
    plain.mkdir()
    mode = plain.stat().st_mode & 0o777
    plain.rmdir()
    return mode


def test_the_first_of_several_builders_wins(tmp_path: Path) -> None:
    place = tmp_path / "base"
    with atomic_folder(place, keep_existing=True) as slow:
        (slow / "a").write_text("slow", encoding="utf-8")
        with atomic_folder(place, keep_existing=True) as fast:
            (fast / "a").write_text("fast", encoding="utf-8")
    assert held(tmp_path) == {"base/a": "fast"}
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_in_the_way_is_no_folder_that_was_there_first(tmp_path: Path) -> None:
    place = tmp_path / "base"
    place.write_text("a file", encoding="utf-8")
    with pytest.raises(OSError), atomic_folder(place, keep_existing=True) as folder:
        (folder / "a").write_text("new", encoding="utf-8")
    assert held(tmp_path) == {"base": "a file"}


def test_a_seal_goes_first_and_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    (place / "records").mkdir(parents=True)
    for name in ("records/old", "answers", "summary", "zzz"):
        (place / name).write_text("old", encoding="utf-8")
    moved: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        assert not (place / "summary").exists()
        moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with sealed_files(place, seal="summary") as folder:
        (folder / "records").mkdir()
        for name in ("records/new", "summary", "zzz"):
            (folder / name).write_text("new", encoding="utf-8")
        assert held(place)["summary"] == "old"
    assert moved[-1] == "summary"
    assert held(place) == {"answers": "old", "records/new": "new", "summary": "new", "zzz": "new"}


def test_sha256_of_a_file_of_several_chunks(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(3 << 20))
    # sha256sum of three mebibytes of zeros
    assert file_sha256(path) == "bbd05cf6097ac9b1f89ea29d2542c1b7b67ee46848393895f5a9e43fa1f621e5"


@pytest.mark.parametrize("kind", ["file", "folder", "sealed"])
def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    place.mkdir()
    for number in range(2):
        subprocess.run([sys.executable, "-c", KILLED, kind, str(place)], env=dict(os.environ), check=False)
        left = [found for found in (*tmp_path.iterdir(), *place.iterdir()) if found.name.startswith(".")]
        assert len(left) == (2 if kind == "file" else 1), f"and of run {number - 1} nothing"
    assert unfinished(place, seal="a") == (kind == "sealed")
    opened = {
        "file": lambda: atomic_file(place / "a"),
        "folder": lambda: atomic_folder(place, force=True),
        "sealed": lambda: sealed_files(place, seal="a"),
    }
    with opened[kind]() as aside:
        (aside if kind == "file" else aside / "a").write_text("new", encoding="utf-8")
    assert held(tmp_path) == {"out/a": "new"} and list(tmp_path.iterdir()) == [place]
    assert not unfinished(place, seal="a")


def test_the_work_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with atomic_folder(place) as slow, atomic_file(tmp_path / "a") as half:
        half.write_text("first", encoding="utf-8")
        with atomic_folder(place) as fast, atomic_file(tmp_path / "a") as whole:
            (fast / "x").write_text("fast", encoding="utf-8")
            whole.write_text("second", encoding="utf-8")
        assert slow.is_dir() and half.is_file()
        with pytest.raises(OutputExistsError), atomic_folder(place):
            pytest.fail("the block must not run")
        assert slow.is_dir()
        place.rename(tmp_path / "kept")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "kept", "out"]


@pytest.mark.parametrize("can", [True, False])
def test_two_folders_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    """In one step where the system has it; the other way, with two, gives the same."""
    if not can:
        monkeypatch.setattr("sst_merge.files.exchange", lambda *_: False)
    place = tmp_path / "out"
    for text in ("old", "new"):
        with atomic_folder(place, force=True) as folder:
            (folder / "a").write_text(text, encoding="utf-8")
        assert held(tmp_path) == {"out/a": text} and list(tmp_path.iterdir()) == [place]


def test_a_folder_moved_away_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    place, aside = tmp_path / "out", tmp_path / ".out.abcdefgh.old"
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "a").write_text("old", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="exists already"), atomic_folder(place):
        pytest.fail("the block must not run")
    assert held(tmp_path) == {"out/a": "old"} and list(tmp_path.iterdir()) == [place]


def test_a_folder_goes_to_disk_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is there when the block ends, and what the system refuses is raised then."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    sync, begun, read = os.fsync, threading.Event(), threading.Event()
    on_disk: set[int] = set()

    def slowly(descriptor: int) -> None:
        begun.set()
        assert read.wait(10)
        sync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", slowly)
    with synced(tmp_path):
        assert begun.wait(10)
        assert (tmp_path / "one").read_text(encoding="utf-8") == "one" and not on_disk
        read.set()
    assert on_disk == {place.stat().st_ino for place in (tmp_path, tmp_path / "one", tmp_path / "two")}

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"), synced(tmp_path):
        pass
