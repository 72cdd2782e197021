"""How long work tells how far it is, and the bars that show it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn

__all__ = ["Progress", "drawn_bars"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all)."""


def drawn_bars(*more: "ProgressColumn", console: "Console | None" = None, hidden: bool = False) -> "Bars":
    """Bars with what is done and the time left, one a task; used in a ``with`` block.

    Args:
        more: columns behind these.
        console: where they are drawn; standard output by default.
        hidden: draw nothing.

    Returns:
        rich's display, without tasks.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
        console=console,
        disable=hidden,
        # Drawing is work in Python, which holds up the computation: rich's ten times a second take a tenth of a core.
        refresh_per_second=2,
    )
