"""Merges write the bytes that were recorded; of twelve situations these, all by the script (see same_bytes.py)."""

import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

SCRIPT = "tests/same_bytes.py"


# With data and a safety adapter; patterns of ranks; an embedding; another orientation with biases. The others by hand.
SITUATIONS = ("02", "04", "06", "07")


def test_merges_write_the_recorded_bytes(script: Callable[[str], ModuleType]) -> None:
    same_bytes = script(SCRIPT)
    if reasons := same_bytes.elsewhere(json.loads(same_bytes.RECORD.read_text(encoding="utf-8"))):
        pytest.skip("; ".join(reasons))
    # A process of its own: threads and libraries are pinned before torch is imported.
    command = [sys.executable, str(same_bytes.__file__), "--no-demo", "--only", *SITUATIONS]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
