"""Every merge writes the bytes that were recorded (see same_bytes.py)."""

import json
import subprocess
import sys

import pytest

from same_bytes import RECORD, elsewhere


@pytest.mark.slow
def test_every_merge_writes_the_recorded_bytes() -> None:
    if reasons := elsewhere(json.loads(RECORD.read_text(encoding="utf-8"))):
        pytest.skip("; ".join(reasons))
    # A process of its own: threads and libraries are pinned before torch is imported.
    script = RECORD.with_suffix(".py")
    found = subprocess.run([sys.executable, str(script), "--no-demo"], check=False, capture_output=True, text=True)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
