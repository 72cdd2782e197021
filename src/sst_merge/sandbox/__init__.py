"""Runs programs that nobody trusts, such as those a model wrote, or refuses to."""

from .outcome import Limits, Outcome
from .run import require_sandbox, run_program

__all__ = ["Limits", "Outcome", "require_sandbox", "run_program"]
