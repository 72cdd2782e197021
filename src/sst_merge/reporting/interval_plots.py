"""What the pictures of figures with intervals share: one row a name, a dot or a bar, a line for the interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from ..measures.figure import Figure
from .style import FAINT, GRID, INK, add_axes, label_size, picture_text, set_title, title_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["RowFrame", "check_drawable", "write_beside"]

_LABEL_SIZE = 9.0
_PANEL = 4.6  # inches


def check_drawable(
    what: str, figures: Mapping[str, Iterable[Figure | None]], highlight: str | None = None
) -> list[float]:
    """Refuse a picture that would be empty.

    Raises:
        DataError: nothing to draw, or a highlighted name without figures.
    """
    if highlight is not None and highlight not in figures:
        raise DataError(f"{what}: highlight = {highlight!r} is not one of the names {', '.join(figures)}")
    known = [figure for found in figures.values() for figure in found if figure is not None]
    if not known:
        raise DataError(f"{what}: no values to draw for {', '.join(figures) or 'no names'}; pass at least one measured")
    return [end for figure in known for end in (figure.value, figure.low, figure.high) if math.isfinite(end)]


class RowFrame:
    """Where the rows of a picture are.

    Args:
        names: row labels, from top to bottom.
        title: above the picture.
        row: height of one row in inches.
        beside: room to the right of the axes, in inches.
        legend: room for a legend below the axes, in inches.
    """

    def __init__(
        self, names: Sequence[str], title: str, *, row: float, beside: float = 0.2, legend: float = 0.0
    ) -> None:
        self._names, self._title, self._legend = names, title, legend
        self._left = 0.3 + label_size(names, _LABEL_SIZE)[0]
        self._height = row * len(names) + 0.1
        width = self._left + _PANEL + beside
        self.size = (width, title_height(title, width) + self._height + 0.62 + legend)

    def axes(self, canvas: "Canvas", label: str) -> "Axes":
        """Axes with a row per name, titled."""
        axes = add_axes(canvas, self._left, 0.55 + self._legend, _PANEL, self._height)
        axes.set_ylim(len(self._names) - 0.5, -0.5)
        axes.set_yticks(range(len(self._names)), list(map(picture_text, self._names)), fontsize=_LABEL_SIZE)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel(picture_text(label))
        set_title(canvas, self._title)
        return axes


def write_beside(axes: "Axes", row: float, text: str) -> None:
    """Text to the right of the axes, beside a row."""
    axes.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK if text != "–" else FAINT,
        annotation_clip=False,
    )
