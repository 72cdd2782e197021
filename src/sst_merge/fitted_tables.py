"""Tables that fit their terminal: no name is cut, no word and no interval is broken.

What does not fit has its intervals on a line below the figures; or leaves them to a page that has them; or is turned on
its side. Nothing is told by colour alone.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

__all__ = ["best_marked", "fitted", "print_fitted"]

_LONGEST_WORD = 48
_UNBOUNDED = 10_000
_MOST_SIDE_BY_SIDE = 3
_FRAME = 3
"""Two spaces and a line that every column has beside its text."""

_INTERVAL = re.compile(r"(\S+) (\[[^\[\]]*\d[^\[\]]*\])")
_BEST = "*"


def print_fitted(table: "Table", console: "Console", *, intervals: str | None = None) -> None:
    """Print a table as :func:`fitted` has it; where its intervals are left out, a line says where they are.

    Args:
        table: of texts.
        console: where it is printed.
        intervals: where else the intervals are, or None.
    """
    for part, without in fitted(table, console, elsewhere=intervals is not None):
        console.print(part)
        if without:
            console.print(f"intervals: {intervals}", markup=False, highlight=False, emoji=False, soft_wrap=True)


def fitted(table: "Table", console: "Console", *, elsewhere: bool = False) -> "Iterator[tuple[Table, bool]]":
    """The table itself where it fits, else one that wraps between words, else its rows as columns.

    Args:
        table: of texts.
        console: where it is printed.
        elsewhere: whether intervals may be left out.

    Yields:
        One table, or several where its rows became too many columns; and whether its intervals are left out.
    """
    if _measured(table, console) <= console.width or table.row_count == 0:
        yield table, False
        return
    below = _changed(table, lambda cell: _INTERVAL.sub(r"\1\n\2", cell))
    for found in (below, _changed(table, lambda cell: _INTERVAL.sub(r"\1", cell))):
        needed = [_longest_word(column) for column in found.columns]
        room = console.width - _FRAME * len(needed) - 1
        if sum(needed) <= room:
            for column, width in zip(found.columns, _allotted(found, needed, room), strict=True):
                column.width, column.min_width, column.overflow = width, None, "fold"
            yield found, found is not below
            return
        if not elsewhere:
            break
    each = max(_longest_word(column) for column in below.columns) + _FRAME
    words = max(_length(word) for column in table.columns for word in str(column.header).split() or [""])
    room = console.width - _FRAME - 1
    side_by_side = min(max(1, (room - words) // each), _MOST_SIDE_BY_SIDE)
    natural = max(_length(str(column.header)) for column in table.columns)
    headings = max(min(natural, room - side_by_side * each), min(words, room // 2))
    width = max((room - headings) // side_by_side - _FRAME, 1)
    for start in range(0, table.row_count, side_by_side):
        rows = slice(start, start + side_by_side)
        whole = all(_length(str(cell)) <= width for column in table.columns for cell in list(column.cells)[rows])
        yield _turned(table if whole else below, rows, (headings, width), titled=start == 0), False


def best_marked(cells: list[str], values: list[float | None], *, higher: bool | None) -> list[str]:
    """Cells of a row with a star at the best, so that it needs no colour; none where all are equal.

    Args:
        cells: as text.
        values: of the cells; None where nothing was measured.
        higher: whether more is better; None marks nothing.

    Returns:
        The cells; those that are as good as the best have the star after the figure.

    Example:
        >>> best_marked(["0.50 [0.40, 0.60]", "0.70 [0.60, 0.80]"], [0.5, 0.7], higher=True)
        ['0.50 [0.40, 0.60]', '0.70* [0.60, 0.80]']
    """
    known = [value for value in values if value is not None]
    if higher is None or len(set(known)) < 2:
        return cells
    best = max(known) if higher else min(known)
    return [
        cell if value != best else " ".join([f"{cell.split(' ', 1)[0]}{_BEST}", *cell.split(" ", 1)[1:]])
        for cell, value in zip(cells, values, strict=True)
    ]


def _measured(table: "Table", console: "Console") -> int:
    return console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum


def _length(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _longest_word(column: "Column") -> int:
    """Room that a column needs: of its longest word, or interval, which is not broken either."""
    words = [
        word
        for cell in (column.header, *column.cells)
        for line in str(cell).split("\n")
        for word in ([line] if _INTERVAL.fullmatch(f"0 {line}") else line.split())
    ]
    return min(max(map(_length, words), default=0), _LONGEST_WORD)


def _allotted(table: "Table", needed: list[int], room: int) -> list[int]:
    """Widths of columns: what each needs; what is left goes to cells, of which there are many, and then to headings.

    Those that lack least come first.
    """
    widths = list(needed)
    for texts in ([column.cells for column in table.columns], [[column.header] for column in table.columns]):
        natural = [
            max((_length(line) for cell in cells for line in str(cell).split("\n")), default=0) for cells in texts
        ]
        left = room - sum(widths)
        lacking = [place for place, width in enumerate(widths) if natural[place] > width]
        lacking.sort(key=lambda place: natural[place] - widths[place])
        for done, place in enumerate(lacking):
            more = min(natural[place] - widths[place], left // (len(lacking) - done))
            widths[place] += more
            left -= more
    return widths


def _changed(table: "Table", change: Callable[[str], str]) -> "Table":
    """The same table with other texts in its cells."""
    from rich.table import Table

    changed = Table(title=table.title, box=table.box, title_justify="left", pad_edge=table.pad_edge)
    for column in table.columns:
        changed.add_column(column.header, justify=column.justify)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        changed.add_row(*(_with_text(cell, change) for cell in cells))
    return changed


def _with_text(cell: object, change: Callable[[str], str]) -> "Text":
    from rich.text import Text

    return Text(change(str(cell)), style=cell.style if isinstance(cell, Text) else "")


def _turned(table: "Table", rows: slice, widths: tuple[int, int], *, titled: bool) -> "Table":
    from rich.table import Table

    turned = Table(title=table.title if titled else None, box=table.box, title_justify="left", pad_edge=table.pad_edge)
    first, *others = table.columns
    turned.add_column(first.header, overflow="fold", max_width=widths[0])
    for cell in list(first.cells)[rows]:
        turned.add_column(cell, overflow="fold", max_width=widths[1])
    for column in others:
        turned.add_row(column.header, *list(column.cells)[rows])
    return turned
