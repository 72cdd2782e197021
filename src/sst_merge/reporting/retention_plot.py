"""Retention against the number of merged experts: one line a method, its interval as a band."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from .interval_plots import Interval, checked_figures
from .style import COLORS, FAINT, GRID, LINES, MARKERS, add_axes, set_title, title_height, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["retention_plot"]

_LEGEND_WIDTH = 24  # characters


def retention_plot(
    curves: Mapping[str, Mapping[int, Interval]],
    *,
    path_stem: Path,
    title: str,
    highlight: str | None = None,
    axis_label: str = "Retention: mean score / own expert's score",
) -> tuple[Path, Path]:
    """Draw retention over the number of experts and write it as PNG and SVG.

    Args:
        curves: method → number of experts → (retention, lower end, upper end); numbers without retention are left out.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        highlight: method to draw with more weight.
        axis_label: of the vertical axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, a value outside its interval, or a highlighted name that is no method.
    """
    checked_figures("retention_plot", {name: list(points.values()) for name, points in curves.items()}, highlight)
    width = 7.6
    above, height = title_height(title, width), max(3.2, 0.42 * len(curves))

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, 0.68, 0.58, 4.6, height)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        numbers = sorted({n for points in curves.values() for n in points})
        ends = [end for points in curves.values() for figures in points.values() for end in figures if end is not None]
        for index, (name, points) in enumerate(curves.items()):
            color, strong = COLORS[index % len(COLORS)], name == highlight
            known = [(n, value, low, high) for n, (value, low, high) in sorted(points.items()) if value is not None]
            band = [(n, low, high) for n, _, low, high in known if low is not None and high is not None]
            if len(band) > 1:
                axes.fill_between([n for n, _, _ in band], [low for _, low, _ in band], [high for *_, high in band],
                                  color=color, alpha=0.15, linewidth=0)  # fmt: skip
            # Bands that overlap hide whose end is whose.
            for n, low, high in band:
                axes.plot((n, n), (low, high), color=color, alpha=0.55, linewidth=1.0)
            axes.plot([n for n, *_ in known], [value for _, value, _, _ in known], color=color,
                      linestyle=LINES[(index + 2 * (index // len(COLORS))) % len(LINES)],
                      linewidth=2.4 if strong else 1.5, marker=MARKERS[index % len(MARKERS)],
                      markersize=6.5 if strong else 5.5, markeredgecolor="white", markeredgewidth=0.7,
                      label=fill(name, _LEGEND_WIDTH), zorder=4.0 if strong else 3.0)  # fmt: skip
        axes.axhline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
        axes.set_ylim(min(0.0, *ends), max(1.0, *ends) + 0.05)
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
        axes.set_xticks(numbers)
        axes.set_xlabel("Merged experts")
        axes.set_ylabel(axis_label)
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, handlelength=2.6, borderaxespad=0)
        set_title(figure, title)

    return write_picture(path_stem, (width, above + height + 0.58), draw)
