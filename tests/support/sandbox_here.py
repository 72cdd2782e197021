"""Whether model-written code can be run on this machine; tests that need it are skipped with the reason."""

import pytest

from sst_merge.errors import SandboxError
from sst_merge.sandbox import require_sandbox

__all__ = ["MISSING", "needs_sandbox"]


def _missing() -> str | None:
    try:
        require_sandbox()
    except SandboxError as error:
        return str(error)
    return None


MISSING = _missing()
needs_sandbox = pytest.mark.skipif(MISSING is not None, reason=f"no sandbox here: {MISSING}")
