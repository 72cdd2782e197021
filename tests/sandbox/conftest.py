"""One program in the sandbox, and what a jail would leave behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sst_merge.sandbox import Limits, Outcome, run_program

# The programs define ``f`` and are asked for the successor of 20.
TESTS = "def check(candidate):\n    assert candidate(20) == 21, 'not the successor'\n    assert candidate(1) == 2\n"


@pytest.fixture(scope="session")
def run() -> Callable[..., Outcome]:
    """A program's outcome under limits that a test can wait for."""

    def run(source: str, tests: str = TESTS, **limits: float) -> Outcome:
        allowed = {"timeout_s": 10.0, "cpu_s": 1, "memory_bytes": 256 << 20, "scratch_bytes": 8 << 20} | limits
        return run_program(source, tests=tests, entry_point="f", limits=Limits(**allowed))

    return run


@pytest.fixture(scope="session")
def jailed() -> Callable[[int], list[int]]:
    """Processes that belong to a jail which that process started; forks share their command line."""

    def jailed(parent: int) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if b"jail.launch" in words and f'"parent": {parent},'.encode() in words:
                found.append(int(entry.name))
        return found

    return jailed
