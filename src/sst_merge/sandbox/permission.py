"""Whether code that a model wrote may run at all: only where the user has asked for it."""

import os
from collections.abc import Mapping

from ..errors import SandboxError
from .run import require_sandbox

__all__ = ["ALLOW_VARIABLE", "refuse_unless_allowed"]

# Code that a model wrote runs only where this is 1.
ALLOW_VARIABLE = "SST_MERGE_ALLOW_CODE_EXECUTION"


def refuse_unless_allowed(environment: Mapping[str, str] | None = None) -> None:
    """Make sure that model-written code was asked for and can be run; worth calling before anything is generated.

    Args:
        environment: environment variables; those of this process by default.

    Raises:
        SandboxError: it was not asked for, or there is no sandbox here.
    """
    found = (os.environ if environment is None else environment).get(ALLOW_VARIABLE)
    if found != "1":
        raise SandboxError(
            f"this suite runs code that the model wrote, and that is off: {ALLOW_VARIABLE} is {found!r}, expected '1'. "
            "Ask for it with --allow-code-execution, or set the variable; what the sandbox guards against is in "
            "docs/code_sandbox.md"
        )
    require_sandbox()
