"""Safety tax by method: bars with intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .interval_plots import Interval, RowFrame, checked_figures, write_beside
from .style import COLORS, FAINT, INK, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["tax_bars"]


def tax_bars(
    taxes: Mapping[str, Interval],
    *,
    path_stem: Path,
    title: str,
    highlight: str | None = None,
    axis_label: str = "Safety tax: utility lost at matched safety",
) -> tuple[Path, Path]:
    """Draw one bar a method, its interval as a line, its value beside it, and write it as PNG and SVG.

    Args:
        taxes: method → (tax, lower end, upper end), drawn in this order. A method without a tax, because it never gets
            safe, has no bar and says so; an interval without an end runs out of the picture as an arrow.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        highlight: method to draw with more weight.
        axis_label: of the horizontal axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, a value outside its interval, or a highlighted name that is no method.
    """
    checked_figures("tax_bars", {name: [tax] for name, tax in taxes.items()}, highlight)
    frame = RowFrame(list(taxes), title, row=0.36, beside=0.7)
    known = [end for tax in taxes.values() if tax[0] is not None for end in tax if end is not None]
    least, most = min(0.0, *known), max(0.0, *known)
    margin = 0.06 * (most - least) or 0.1

    def draw(figure: "Figure") -> None:
        axes = frame.axes(figure, axis_label)
        axes.set_xlim(least - (margin if least < 0 else 0), most + margin)
        for row, (name, (value, low, high)) in enumerate(taxes.items()):
            if value is None:
                axes.text(margin / 4, row, "never reaches the safety asked for", va="center", fontsize=8.5,
                          color=FAINT, style="italic")  # fmt: skip
                write_beside(axes, row, "–")
                continue
            strong = name == highlight
            axes.barh(row, value, height=0.62, color=COLORS[0] if strong else COLORS[5], edgecolor=INK, linewidth=0.6)
            left, right = (end if end is not None else limit for end, limit in zip((low, high), axes.get_xlim(),
                                                                                    strict=True))  # fmt: skip
            axes.plot((left, right), (row, row), color=INK, linewidth=1.3, solid_capstyle="butt")
            for end, place, arrow in ((low, left, "<"), (high, right, ">")):
                axes.plot(place, row, color=INK, marker="|" if end is not None else arrow, markersize=6, clip_on=False)
            write_beside(axes, row, f"{value:.3f}")
        axes.axvline(0, color=INK, linewidth=0.9)

    return write_picture(path_stem, frame.size, draw)
