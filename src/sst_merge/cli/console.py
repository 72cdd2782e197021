"""What commands show on a terminal: progress on stderr, tables on stdout.

Everything that a command prints goes through here, where names, paths and fields of files lose what would move the
cursor, change colours or turn the line around.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..progress import Progress
from ..texts import escaped_json, visible

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_json", "print_table", "print_tables", "progress_bars", "say", "say_error", "say_lines", "warn"]


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """One bar per stage on stderr, with the time left, while the block runs; silent where stderr is not a terminal.

    Yields:
        A function of (stage, done, total).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        stages: dict[str, object] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(visible(stage), total=total)
            bars.update(stages[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield advance


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title), style="table.title"), title_justify="left")
    for column in columns:
        table.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    print_tables([table])


def print_tables(tables: "Sequence[Table]") -> None:
    """Tables on stdout."""
    from rich.console import Console

    # Where the output is not a terminal, lines must not break at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False, emoji=False)
    for table in tables:
        console.print(table)


def say(line: object, *, err: bool = False) -> None:
    """One line on stdout, or on stderr."""
    click.echo(visible(str(line)), err=err)


def say_lines(text: str) -> None:
    """Lines on stdout; names in them have no line breaks any more."""
    click.echo(visible(text, keep="\n"))


def print_json(text: str) -> None:
    """JSON on stdout: what a terminal must not get is escaped as JSON escapes it, so its values are the same."""
    click.echo(escaped_json(text))


def warn(message: str) -> None:
    """A warning on stderr."""
    click.secho(f"Warning: {visible(message)}", fg="yellow", err=True)


def say_error(error: object) -> None:
    """An error on stderr; it may have several lines."""
    click.secho(f"Error: {visible(str(error), keep=chr(10))}", fg="red", err=True)
