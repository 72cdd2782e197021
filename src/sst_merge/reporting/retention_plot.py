"""Retention against the number of merged experts: one line a method, its interval as a band."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from ..measures.figure import Figure
from .interval_plots import check_drawable
from .style import FAINT, GRID, add_axes, curve_look, picture_text, set_title, title_height, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["retention_plot"]


def retention_plot(
    curves: Mapping[str, Mapping[int, Figure | None]],
    *,
    path_stem: Path,
    title: str,
    highlight: str | None = None,
    axis_label: str = "Retention: mean score / own expert's score",
) -> tuple[Path, Path]:
    """Draw retention over the number of experts and write it as PNG and SVG.

    Args:
        curves: method → number of experts → retention; numbers without one are left out.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        highlight: method to draw with more weight.
        axis_label: of the vertical axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, or a highlighted name that is not a method.
    """
    ends = check_drawable("retention_plot", {name: points.values() for name, points in curves.items()}, highlight)
    width = 7.6
    above, height = title_height(title, width), max(3.2, 0.42 * len(curves))

    def draw(canvas: "Canvas") -> None:
        axes = add_axes(canvas, 0.68, 0.58, 4.6, height)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        numbers = sorted({n for points in curves.values() for n in points})
        for index, (name, points) in enumerate(curves.items()):
            look = curve_look(index, name, strong=name == highlight)
            known = [(n, figure) for n, figure in sorted(points.items()) if figure is not None]
            band = [(n, of.low, of.high) for n, of in known if isfinite(of.low) and isfinite(of.high)]
            if len(band) > 1:
                places, lows, highs = zip(*band, strict=True)
                axes.fill_between(places, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
            # Bands that overlap hide whose end is whose.
            for n, low, high in band:
                axes.plot((n, n), (low, high), color=look["color"], alpha=0.55, linewidth=1.0)
            zorder = 4.0 if name == highlight else 3.0
            axes.plot([n for n, _ in known], [figure.value for _, figure in known], zorder=zorder, **look)
        axes.axhline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
        axes.set_ylim(min(0.0, *ends), max(1.0, *ends) + 0.05)
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
        axes.set_xticks(numbers)
        axes.set_xlabel("Merged experts")
        axes.set_ylabel(picture_text(axis_label))
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, handlelength=2.6, borderaxespad=0)
        set_title(canvas, title)

    return write_picture(path_stem, (width, above + height + 0.58), draw)
