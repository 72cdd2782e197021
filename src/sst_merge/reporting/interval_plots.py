"""What the pictures of figures with intervals share: one row a name, a dot or a bar, a line for the interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from .style import FAINT, GRID, INK, add_axes, label_size, set_title, title_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Interval", "RowFrame", "checked_figures", "write_beside"]

Interval = tuple[float | None, float | None, float | None]
"""Value, lower end, upper end; None where unknown."""

_LABEL_SIZE = 9.0
_PANEL = 4.6  # inches


def checked_figures(what: str, figures: Mapping[str, Sequence[Interval]], highlight: str | None = None) -> None:
    """Refuse a picture that would be empty or tell less than its interval says.

    Args:
        what: named in the error.
        figures: name → figures.
        highlight: name to draw with more weight, or None.

    Raises:
        DataError: nothing to draw, a value outside its interval, or a highlighted name without figures.
    """
    if highlight is not None and highlight not in figures:
        raise DataError(f"{what}: highlight = {highlight!r} is none of the names {', '.join(figures)}")
    if not any(value is not None for found in figures.values() for value, _, _ in found):
        raise DataError(f"{what}: no values to draw for {', '.join(figures) or 'no names'}; pass at least one measured")
    for name, found in figures.items():
        for value, low, high in found:
            if value is not None and ((low is not None and low > value) or (high is not None and high < value)):
                raise DataError(f"{what}: {name}: value {value} outside its interval {low} to {high}")


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

    def axes(self, figure: "Figure", label: str) -> "Axes":
        """Axes with a row per name, titled.

        Args:
            figure: of :attr:`size`.
            label: of the horizontal axis.

        Returns:
            The axes; row i is at height i, counted downwards.
        """
        axes = add_axes(figure, self._left, 0.55 + self._legend, _PANEL, self._height)
        axes.set_ylim(len(self._names) - 0.5, -0.5)
        axes.set_yticks(range(len(self._names)), self._names, fontsize=_LABEL_SIZE)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        set_title(figure, self._title)
        return axes


def write_beside(axes: "Axes", row: float, text: str) -> None:
    """Text to the right of the axes, beside a row.

    Args:
        axes: of a :class:`RowFrame`.
        row: height.
        text: short.
    """
    axes.annotate(text, (1.0, row), xycoords=("axes fraction", "data"), xytext=(9, 0), textcoords="offset points",
                  va="center", fontsize=8, color=INK if text != "–" else FAINT, annotation_clip=False)  # fmt: skip
