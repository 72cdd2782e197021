"""What commands show on a terminal: progress on stderr, tables on stdout."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_table", "print_tables", "progress_bars", "warn"]


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """One bar per stage on stderr, with the time left, while the block runs; silent where stderr is no terminal.

    Yields:
        A function of (stage, done, total).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        stages: dict[str, object] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield advance


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout.

    Args:
        title: above it.
        columns: headings.
        rows: cells.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_tables([table])


def print_tables(tables: "Sequence[Table]") -> None:
    """Tables on stdout.

    Args:
        tables: ready to print.
    """
    from rich.console import Console

    # Where nobody looks at a terminal, lines must not break at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    for table in tables:
        console.print(table)


def warn(message: str) -> None:
    """A warning on stderr.

    Args:
        message: one sentence.
    """
    click.secho(f"Warning: {message}", fg="yellow", err=True)
