"""Refusal, harm and incoherence of every model: dots with intervals, the three always together."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .interval_plots import Interval, RowFrame, checked_figures
from .style import COLORS, FAINT, MARKERS, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["rate_plot"]

_SPREAD = 0.22  # of a row, between the dots of one model


def rate_plot(
    rates: Mapping[str, Mapping[str, Interval]],
    *,
    path_stem: Path,
    title: str,
    axis_label: str = "Rate",
) -> tuple[Path, Path]:
    """Draw one row a model with one dot a score, intervals as lines, and write it as PNG and SVG.

    Colour and marker differ together. What was not measured is a dash at the left edge, never a dot at 0.

    Args:
        rates: model → score → (rate, lower end, upper end), the same scores in the same order for every model.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        axis_label: of the horizontal axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, models with different scores, more scores than markers, or a value outside its
            interval.
    """
    scores = list(next(iter(rates.values()), {}))
    if any(list(found) != scores for found in rates.values()) or len(scores) > len(COLORS):
        raise DataError(f"rate_plot: scores {[list(found) for found in rates.values()]}; expected the same for every "
                        f"model, at most {len(COLORS)}; pass None for what was not measured")  # fmt: skip
    checked_figures("rate_plot", {model: list(found.values()) for model, found in rates.items()})
    frame = RowFrame(list(rates), title, row=0.16 + 0.13 * len(scores), legend=0.3)
    step = min(_SPREAD, 0.7 / len(scores))

    def draw(figure: "Figure") -> None:
        axes = frame.axes(figure, axis_label)
        known = [end for found in rates.values() for figures in found.values() for end in figures if end is not None]
        axes.set_xlim(min(0.0, *known) - 0.02, max(1.0, *known) + 0.02)
        for row in range(1, len(rates)):
            axes.axhline(row - 0.5, color="#f0f0f0", linewidth=0.8, zorder=0)
        for i, score in enumerate(scores):
            look = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 6.0, "markeredgecolor": "white",
                    "markeredgewidth": 0.6}  # fmt: skip
            axes.plot([], [], linestyle="none", label=score, **look)  # type: ignore[arg-type]
            for row, found in enumerate(rates.values()):
                value, low, high = found[score]
                place = row + (i - (len(scores) - 1) / 2) * step
                if value is None:
                    axes.text(axes.get_xlim()[0], place, " –", va="center", fontsize=8, color=FAINT)
                    continue
                if low is not None and high is not None:
                    axes.plot((low, high), (place, place), color=COLORS[i], linewidth=1.5, alpha=0.65)
                axes.plot(value, place, linestyle="none", clip_on=False, **look)  # type: ignore[arg-type]
        figure.legend(loc="lower left", ncols=len(scores), frameon=False, fontsize=9, handletextpad=0.3,
                      bbox_to_anchor=(axes.get_position().x0 - 0.02, 0.0))  # fmt: skip

    return write_picture(path_stem, frame.size, draw)
