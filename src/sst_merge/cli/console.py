"""What commands show on a terminal: results on stdout, everything else on stderr.

Everything that a command prints goes through here, where names, paths and fields of files lose what would move the
cursor, change colours or turn the line around. With ``--json`` stdout holds one document, which :func:`finish` writes.
"""

import json
import logging
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

import click

from ..progress import Progress, drawn_bars
from ..texts import broken_between_words, escaped_json, visible
from .voice import voice

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "detail",
    "finish",
    "near",
    "note",
    "print_table",
    "print_tables",
    "progress_bars",
    "say",
    "say_error",
    "say_lines",
    "say_paragraph",
    "shell",
    "warn",
]

_WIDE = 200


@contextmanager
def progress_bars(tokens: Mapping[str, float] = MappingProxyType({})) -> Iterator[Progress]:
    """One bar per stage on stderr, with the time left, while the block runs; silent where stderr is not a terminal.

    Args:
        tokens: stage → tokens of a step on average; such a stage shows tokens a second too.

    Yields:
        A function of (stage, done, total).
    """
    from rich.console import Console
    from rich.progress import TextColumn

    hidden = voice().quiet or not sys.stderr.isatty()
    began: dict[str, tuple[float, int]] = {}
    last: dict[str, tuple[float, int]] = {}

    def rate(stage: str) -> str:
        """Since the stage's first report, for nobody knows how long its first step took."""
        (start, before), (now, done) = began[stage], last[stage]
        known = stage in tokens and now > start
        return f"{(done - before) * tokens[stage] / (now - start):.0f} tokens/s" if known else ""

    speed_column = TextColumn("{task.fields[speed]}", markup=False)
    with drawn_bars(speed_column, console=Console(stderr=True), hidden=hidden) as bars:
        stages: dict[str, object] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(visible(stage), total=total, speed="")
                began[stage] = time.perf_counter(), done
            last[stage] = time.perf_counter(), done
            bars.update(stages[stage], completed=done, total=total, speed=rate(stage))  # type: ignore[arg-type]

        yield advance
    for stage, (ended, done) in last.items():
        speed = f", {rate(stage)}" if rate(stage) else ""
        detail(f"{stage}: {done} in {ended - began[stage][0]:.1f} s{speed}")


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, intervals: str | None = None
) -> None:
    """A table on stdout; where it is too wide, its intervals may be left to what ``intervals`` names."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title), style="table.title"), title_justify="left")
    for column in columns:
        table.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    print_tables([table], intervals=intervals)


def print_tables(tables: "Sequence[Table]", *, intervals: str | None = None) -> None:
    """Tables on stdout; with ``--json`` none, for the document has what they show."""
    if voice().json_to is not None:
        return
    from rich.console import Console

    from ..fitted_tables import print_fitted

    # Where the output is not a terminal, lines must not break at 80 columns unless somebody asks for it.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    for table in tables:
        print_fitted(table, console, intervals=intervals)


def say(line: object) -> None:
    """One line of the result, on stdout; with ``--json`` none, for the document has it."""
    shown = visible(str(line))
    voice().write(logging.INFO, shown)
    if voice().json_to is None:
        click.echo(_fitting(shown, sys.stdout))


def say_lines(text: str) -> None:
    """Lines of the result; names in them have no line breaks any more."""
    shown = visible(text, keep="\n")
    voice().write(logging.INFO, shown)
    if voice().json_to is None:
        click.echo(_fitting(shown, sys.stdout))


def say_paragraph(text: str, *, indent: int) -> None:
    """A longer text of the result, broken into lines for the terminal's width, 80 columns where there is none."""
    width = min(shutil.get_terminal_size().columns, 100)
    margin = " " * indent
    say_lines(textwrap.fill(visible(text), width, initial_indent=margin, subsequent_indent=margin))


def note(line: object) -> None:
    """A remark on stderr, for whoever is not ``--quiet``."""
    shown = visible(str(line))
    voice().write(logging.INFO, shown)
    if not voice().quiet:
        click.echo(_fitting(shown, sys.stderr), err=True)


def detail(line: object) -> None:
    """A remark on stderr with ``--verbose``, and in the log file."""
    shown = visible(str(line))
    voice().write(logging.DEBUG, shown)
    if voice().verbose:
        click.echo(shown, err=True)


def finish(result: object, *, then: str) -> None:
    """End a command: its result as one JSON document with ``--json``, else the command that follows, on stderr.

    Args:
        result: plain values.
        then: a command line, or a sentence about what to look at.
    """
    spoken = voice()
    if spoken.json_to is not None:
        # What a terminal must not get is escaped as JSON escapes it, so its values are the same.
        text = escaped_json(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        click.echo(text, file=spoken.json_to)
    elif not spoken.quiet:
        click.secho(f"Next: {visible(then)}", fg="cyan", err=True)


def shell(*words: object) -> str:
    """Words of a command line, quoted where a shell needs it."""
    return shlex.join([str(word) for word in words])


def near(place: str | Path) -> str:
    """A folder or file as one types it here: from the current folder where it lies below it; a hub's name as it is."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else str(place)


def warn(message: str) -> None:
    """A warning on stderr."""
    voice().write(logging.WARNING, visible(message))
    click.secho(_fitting(f"Warning: {visible(message)}", sys.stderr), fg="yellow", err=True)


def say_error(error: BaseException) -> None:
    """An error on stderr; it may have several lines. The log file gets where it came from, too."""
    shown = visible(str(error), keep="\n")
    voice().write_error(error)
    click.secho(_fitting(f"Error: {shown}", sys.stderr), fg="red", err=True)


def _fitting(text: str, stream: TextIO) -> str:
    """Broken between words where a terminal would break within them; elsewhere lines stay whole."""
    return broken_between_words(text, shutil.get_terminal_size().columns) if stream.isatty() else text
