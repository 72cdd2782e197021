"""Tables in a terminal that is too narrow for them: no word is broken, and what does not fit is turned on its side."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["fitted"]

_LONGEST_WORD = 30
_UNBOUNDED = 10_000
_MOST_SIDE_BY_SIDE = 3


def fitted(table: "Table", console: "Console") -> "Iterator[Table]":
    """The table itself where it fits, else with cells that wrap between words, else its rows as columns.

    Args:
        table: of texts.
        console: where it is printed.

    Yields:
        One table; several where its rows became too many columns.
    """
    unbounded = console.options.update(width=_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        yield table
        return
    needed = []
    for column in table.columns:
        words = [word for cell in (column.header, *column.cells) for word in str(cell).split()]
        column.min_width = min(max(map(len, words), default=0), _LONGEST_WORD)
        column.overflow = "fold"
        needed.append(column.min_width)
    # Every column has two spaces of its own and, with a frame, a line.
    if sum(needed) + 3 * len(needed) + 1 <= console.width or table.row_count == 0:
        yield table
        return
    headings = max(len(str(column.header)) for column in table.columns)
    side_by_side = max(1, min(_MOST_SIDE_BY_SIDE, (console.width - headings - 2) // (max(needed) + 3)))
    for start in range(0, table.row_count, side_by_side):
        yield _turned(table, slice(start, start + side_by_side), titled=start == 0)


def _turned(table: "Table", rows: slice, *, titled: bool) -> "Table":
    from rich.table import Table

    turned = Table(title=table.title if titled else None, box=table.box, title_justify="left", pad_edge=table.pad_edge)
    first, *others = table.columns
    turned.add_column(first.header)
    for cell in list(first.cells)[rows]:
        turned.add_column(cell, overflow="fold")
    for column in others:
        turned.add_row(column.header, *list(column.cells)[rows])
    return turned
