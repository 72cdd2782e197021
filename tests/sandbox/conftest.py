"""One program in the sandbox, and what a jail would leave behind."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sst_merge.sandbox.run as sandbox
from sst_merge.sandbox import Limits, Outcome, run_program

# The programs define ``f`` and are asked for the successor of 20.
TESTS = "def check(candidate):\n    assert candidate(20) == 21, 'not the successor'\n    assert candidate(1) == 2\n"


USER = 12345


@pytest.fixture(scope="session", params=["this user", "an ordinary user"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Outcome]]:
    """A program's outcome under limits that a test can wait for; as root, all tests run as an ordinary user too."""
    # Not pytest's own folder, which is closed to other users.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="sst-merge-sandbox-") as folder:
        if request.param == "an ordinary user":
            _become_ordinary(patch, Path(folder))
        yield _run


def _become_ordinary(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the sandbox start as a user who is not root, with a Python and a copy of the jail that this user can read."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root and a Python of the system to become an ordinary user")
    folder.chmod(0o755)
    shutil.copytree(Path(sandbox.__file__).parent / "jail", folder / "jail")

    def as_user(command: list[str], **options: Any) -> Any:
        *words, _, given = command
        os.chown(json.loads(given)["stage"], USER, USER)
        command = [python, *words[1:], str(folder), given]
        return subprocess.Popen(command, **options, user=USER, group=USER, extra_groups=())

    patch.setattr(sandbox, "_libraries", list)
    kept = {name: getattr(subprocess, name) for name in ("PIPE", "TimeoutExpired")}
    patch.setattr(sandbox, "subprocess", SimpleNamespace(Popen=as_user, **kept))


def _run(source: str, tests: str = TESTS, **limits: float) -> Outcome:
    allowed = {"timeout_s": 10.0, "cpu_s": 1, "memory_bytes": 256 << 20, "scratch_bytes": 8 << 20} | limits
    return run_program(source, tests=tests, entry_point="f", limits=Limits(**allowed))


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
