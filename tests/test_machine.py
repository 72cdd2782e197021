"""What a machine says of itself: a container's limits, with and without files that its system keeps in memory."""

from pathlib import Path

import pytest

from sst_merge import machine
from sst_merge.machine import free_memory, usable_cores

GIB = 1 << 30


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    return tmp_path


@pytest.fixture
def outside(container: Path) -> int:
    """What is free where the container has no limit."""
    found = free_memory()
    assert found is not None
    return found


def test_a_limit_leaves_what_is_not_used(container: Path, outside: int) -> None:
    (container / "memory.max").write_text(f"{GIB}\n")
    (container / "memory.current").write_text(f"{GIB // 4}\n")
    assert free_memory() == min(outside, 3 * GIB // 4) < outside
    (container / "memory.max").write_text("max\n")
    assert abs((free_memory() or 0) - outside) < GIB


@pytest.mark.parametrize(
    ("limit", "used", "stat", "prefix"),
    [
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ],
)
def test_files_in_memory_are_given_back(
    container: Path, outside: int, limit: str, used: str, stat: str, prefix: str
) -> None:
    """A container that has read a large model is full to the brim, and nearly all of that is free."""
    (container / limit).parent.mkdir(exist_ok=True)
    (container / limit).write_text(f"{GIB}\n")
    (container / used).write_text(f"{GIB}\n")
    assert free_memory() == 0
    (container / stat).write_text(f"anon 4096\n{prefix}inactive_file {GIB // 2}\n{prefix}active_file {GIB // 4}\n")
    assert free_memory() == 3 * GIB // 4 < outside


def test_cores_are_cut_to_the_quota(container: Path) -> None:
    alone = usable_cores()
    (container / "cpu.max").write_text("100000 100000\n")
    assert usable_cores() == 1 <= alone
    (container / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == alone
