"""Refusal, harm and incoherence of every model: dots with intervals, the three always together."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..measures.figure import Figure
from .interval_plots import RowFrame, check_drawable
from .style import COLORS, FAINT, MARKERS, legend_text, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["rate_plot"]

_SPREAD = 0.22  # of a row, between the dots of one model


def rate_plot(
    rates: Mapping[str, Mapping[str, Figure | None]],
    *,
    path_stem: Path,
    title: str,
    axis_label: str = "Rate",
) -> tuple[Path, Path]:
    """Draw one row a model with one dot a score, intervals as lines, and write it as PNG and SVG.

    Colour and marker differ together. What was not measured is a dash at the left edge, never a dot at 0.

    Args:
        rates: model → score → rate, the same scores in the same order for every model.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        axis_label: of the horizontal axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, models with different scores, or more scores than markers.
    """
    scores = list(next(iter(rates.values()), {}))
    if any(list(found) != scores for found in rates.values()) or len(scores) > len(COLORS):
        raise DataError(
            f"rate_plot: scores {[list(found) for found in rates.values()]}; expected the same for every model, at "
            f"most {len(COLORS)}; pass None for what was not measured"
        )
    known = check_drawable("rate_plot", {model: found.values() for model, found in rates.items()})
    frame = RowFrame(list(rates), title, row=0.16 + 0.13 * len(scores), legend=0.3)
    step = min(_SPREAD, 0.7 / len(scores))

    def draw(canvas: "Canvas") -> None:
        axes = frame.axes(canvas, axis_label)
        axes.set_xlim(min(0.0, *known) - 0.02, max(1.0, *known) + 0.02)
        for row in range(1, len(rates)):
            axes.axhline(row - 0.5, color="#f0f0f0", linewidth=0.8, zorder=0)
        for i, score in enumerate(scores):
            look: dict[str, Any] = {
                "linestyle": "none",
                "color": COLORS[i],
                "marker": MARKERS[i],
                "markersize": 6.0,
                "markeredgecolor": "white",
                "markeredgewidth": 0.6,
            }
            axes.plot([], [], label=legend_text(score), **look)
            for row, found in enumerate(rates.values()):
                rate = found[score]
                place = row + (i - (len(scores) - 1) / 2) * step
                if rate is None:
                    axes.text(axes.get_xlim()[0], place, " –", va="center", fontsize=8, color=FAINT)
                    continue
                if isfinite(rate.low) and isfinite(rate.high):
                    axes.plot((rate.low, rate.high), (place, place), color=COLORS[i], linewidth=1.5, alpha=0.65)
                axes.plot(rate.value, place, clip_on=False, **look)
        canvas.legend(
            loc="lower left",
            ncols=len(scores),
            frameon=False,
            fontsize=9,
            handletextpad=0.3,
            bbox_to_anchor=(axes.get_position().x0 - 0.02, 0.0),
        )

    return write_picture(path_stem, frame.size, draw)
