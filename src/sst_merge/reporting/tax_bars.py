"""Safety tax by method: bars with intervals."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from ..measures.figure import Figure
from .interval_plots import RowFrame, check_drawable, write_beside
from .style import COLORS, FAINT, INK, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["tax_bars"]


def tax_bars(
    taxes: Mapping[str, Figure | None],
    *,
    path_stem: Path,
    title: str,
    highlight: str | None = None,
    axis_label: str = "Safety tax: utility lost at matched safety",
) -> tuple[Path, Path]:
    """Draw one bar a method, its interval as a line, its value beside it, and write it as PNG and SVG.

    Args:
        taxes: method → tax, drawn in this order. A method without a tax, because it never gets safe, has no bar and
            says so; an interval without an end runs out of the picture as an arrow.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        highlight: method to draw with more weight.
        axis_label: of the horizontal axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, or a highlighted name that is no method.
    """
    known = check_drawable("tax_bars", {name: [tax] for name, tax in taxes.items()}, highlight)
    frame = RowFrame(list(taxes), title, row=0.36, beside=0.7)
    least, most = min(0.0, *known), max(0.0, *known)
    margin = 0.06 * (most - least) or 0.1

    def draw(canvas: "Canvas") -> None:
        axes = frame.axes(canvas, axis_label)
        axes.set_xlim(least - (margin if least < 0 else 0), most + margin)
        for row, (name, tax) in enumerate(taxes.items()):
            if tax is None:
                said = "never reaches the safety asked for"
                axes.text(margin / 4, row, said, va="center", fontsize=8.5, color=FAINT, style="italic")
                write_beside(axes, row, "–")
                continue
            color = COLORS[0] if name == highlight else COLORS[5]
            axes.barh(row, tax.value, height=0.62, color=color, edgecolor=INK, linewidth=0.6)
            ends = zip((tax.low, tax.high), axes.get_xlim(), "<>", strict=True)
            places = []
            for end, limit, arrow in ends:
                places.append(end if isfinite(end) else limit)
                marker = "|" if isfinite(end) else arrow
                axes.plot(places[-1], row, color=INK, marker=marker, markersize=6, clip_on=False)
            axes.plot(places, (row, row), color=INK, linewidth=1.3, solid_capstyle="butt")
            write_beside(axes, row, f"{tax.value:.3f}")
        axes.axvline(0, color=INK, linewidth=0.9)

    return write_picture(path_stem, frame.size, draw)
