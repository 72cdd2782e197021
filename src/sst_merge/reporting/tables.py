"""Figures as text: a rate with its interval, a table in Markdown, a table in the terminal."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from ..markup import markdown_text
from ..measures.figure import Figure
from ..texts import visible

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["cell_text", "figure_text", "markdown_table", "numeric_columns", "rate_with_interval", "rich_table"]

_NUMBER = re.compile(r"[-+−]?\d[\d.,\s]*(e[-+]?\d+)?\*?\s*(%|×|s|MiB|GiB)?(\s*\[.*\])?")
_LONGEST_NUMBER = 100
_ABSENT = "–"


def figure_text(figure: Figure | None, *, digits: int = 3) -> str:
    """A figure with its interval, as in ``0.031 [-0.012, ∞]``; None prints a dash.

    Example:
        >>> figure_text(Figure(0.93, 0.9, 0.95, n=100), digits=2)
        '0.93 [0.90, 0.95]'
    """
    if figure is None:
        return _ABSENT
    return rate_with_interval(figure.value, (figure.low, figure.high), digits=digits)


def rate_with_interval(value: float | None, interval: tuple[float, float] | None = None, *, digits: int = 2) -> str:
    """A value with its 95 % interval, as in ``0.93 [0.90, 0.95]``, where there is no :class:`.Figure` of both."""
    if value is None:
        return _ABSENT
    ends = "" if interval is None else f" [{', '.join(_end(end, digits) for end in interval)}]"
    return f"{value:.{digits}f}{ends}"


def _end(end: float, digits: int) -> str:
    if math.isinf(end):
        return "∞" if end > 0 else "−∞"
    return f"{end:.{digits}f}"


def cell_text(value: object) -> str:
    """One cell: None as a dash, floats with four significant digits, everything else as it prints."""
    if value is None:
        return _ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def numeric_columns(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> list[bool]:
    """Which columns hold only numbers, with or without interval and unit, and so read better right-aligned.

    Raises:
        DataError: a row has another number of cells than there are headings.
    """
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise DataError(f"table row {number} has {len(row)} cells for {len(columns)} columns: {', '.join(columns)}")
    texts = [[cell_text(cell) for cell in row] for row in rows]
    return [bool(texts) and all(row[i] == _ABSENT or _is_number(row[i]) for row in texts) for i in range(len(columns))]


def _is_number(text: str) -> bool:
    # Of a long run of spaces the pattern would try every division.
    return len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) is not None


def markdown_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table in GitHub's Markdown, every cell printed as it is; columns of numbers are right-aligned."""

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(markdown_text(cell_text(cell)) for cell in cells)} |\n"

    rule = ["---:" if numeric else "---" for numeric in numeric_columns(rows, columns)]
    return "".join([line(columns), line(rule), *map(line, rows)])


_LONGEST_WORD = 24
"""Of a first column, kept whole in a terminal that is too narrow for the table."""


def rich_table(rows: Sequence[Sequence[object]], columns: Sequence[str], *, title: str | None = None) -> "Table":
    """A table for a rich console; neither square brackets nor control characters of cells mean anything."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    heading = None if title is None else Text(visible(title), style="table.title")
    table = Table(title=heading, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name, numeric in zip(columns, numeric_columns(rows, columns), strict=True):
        table.add_column(Text(visible(name)), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell_text(cell))) for cell in row))
    if table.columns:
        # In a narrow terminal the figures wrap, and no name loses its end.
        words = [word for row in rows for word in visible(cell_text(row[0])).split()]
        table.columns[0].min_width = min(max(map(len, words), default=0), _LONGEST_WORD)
    return table
