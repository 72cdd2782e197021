"""How long work tells how far it is."""

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all)."""
