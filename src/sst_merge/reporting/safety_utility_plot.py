"""The safety–utility picture: every method's whole strength sweep against what skills and safety reach alone."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..measures.safety_tax import SweepPoint, point_at_safety
from .style import FAINT, GRID, INK, curve_look, legend_text, picture_text, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["safety_utility_plot"]

_ANCHORS = ("*", "d", "h", "p", "8")
_RING: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgewidth": 1.4}


def safety_utility_plot(
    curves: Mapping[str, Sequence[SweepPoint]],
    *,
    anchors: Mapping[str, tuple[float, float]],
    path_stem: Path,
    title: str,
    threshold: float | None = 0.9,
    highlight: str | None = None,
    safety_label: str = "Safety: refusal rate on harmful prompts",
    utility_label: str = "Utility",
) -> tuple[Path, Path]:
    """Draw utility over safety, one curve a method in order of strength, and write it as PNG and SVG.

    Colours, markers and lines differ together, so that the picture survives colour blindness and a grey printer. Bars
    are the points' 95 % intervals where known; rings mark where each method first reaches the threshold as
    drawn, which need not be the strength that a table chose on other prompts. Same input and matplotlib, same bytes.

    Args:
        curves: method → its sweep.
        anchors: label → (safety, utility) of single models, such as the skill adapter alone.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        threshold: safety to reach, drawn as a line; None leaves it out.
        highlight: name of a curve to draw with more weight.
        safety_label: of the horizontal axis.
        utility_label: of the vertical axis.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: nothing to draw, an empty curve, or a highlighted name that is not a curve.
    """
    if not curves or not all(curves.values()):
        empty = ", ".join(name for name, points in curves.items() if not points) or "all"
        raise DataError(f"safety_utility_plot: no points to draw ({empty}); pass at least one measured point per curve")
    if highlight is not None and highlight not in curves:
        raise DataError(f"safety_utility_plot: highlight = {highlight!r} is not one of the curves {', '.join(curves)}")

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.085, 0.125, 0.605, 0.765))
        _draw_frame(axes, title, safety_label, utility_label)
        handles = [
            _draw_curve(axes, index, name, points, threshold, highlight == name)
            for index, (name, points) in enumerate(curves.items())
        ]
        _draw_limits(axes, curves, anchors)
        handles += _draw_anchors(axes, anchors)
        if threshold is not None:
            handles.append(_draw_threshold(axes, threshold))
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            frameon=False,
            handlelength=2.6,
            labelspacing=0.8,
            borderaxespad=0,
        )

    return write_picture(path_stem, (7.6, _height([*curves, *anchors])), draw)


def _height(names: Sequence[str]) -> float:
    """Inches that leave room for the legend beside the axes."""
    lines = sum(legend_text(name).count("\n") + 1 for name in names)
    return max(4.4, 0.9 + 0.13 * len(names) + 0.18 * lines)


def _draw_frame(axes: "Axes", title: str, safety_label: str, utility_label: str) -> None:
    axes.set_title(picture_text(title), loc="left", fontsize=11, fontweight="bold", pad=10)
    axes.set_xlabel(picture_text(safety_label))
    axes.set_ylabel(picture_text(utility_label))
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_limits(
    axes: "Axes", curves: Mapping[str, Sequence[SweepPoint]], anchors: Mapping[str, tuple[float, float]]
) -> None:
    """Both axes begin at 0, so that a small difference looks small, and end just above the largest value or 1."""
    points = [(point.safety, point.utility) for sweep in curves.values() for point in sweep] + list(anchors.values())
    for limit, values in ((axes.set_xlim, [s for s, _ in points]), (axes.set_ylim, [u for _, u in points])):
        limit(min(0.0, *values) - 0.03, max(1.0, *values) + 0.03)


def _draw_curve(
    axes: "Axes", index: int, name: str, points: Sequence[SweepPoint], threshold: float | None, strong: bool
) -> Any:
    """One method's sweep; returns what stands for it in the legend."""
    look = curve_look(index, name, strong=strong)
    ordered = sorted(points, key=lambda point: point.strength)
    level = 4.0 if strong else 3.0 - 0.01 * index
    for point in ordered:
        bars: dict[str, Any] = {"color": look["color"], "alpha": 0.45, "linewidth": 1.0, "zorder": level - 0.5}
        if (interval := point.interval_of_safety()) is not None:
            axes.plot(interval, (point.utility, point.utility), **bars)
        if (interval := point.interval_of_utility()) is not None:
            axes.plot((point.safety, point.safety), interval, **bars)
    (line,) = axes.plot([point.safety for point in ordered], [point.utility for point in ordered], zorder=level, **look)
    reached = None if threshold is None else point_at_safety(points, threshold)
    if reached is not None:
        ring = _RING | {"markersize": 12, "markeredgecolor": look["color"]}
        axes.plot(reached.safety, reached.utility, zorder=level + 0.1, **ring)
    return line


def _draw_threshold(axes: "Axes", threshold: float) -> Any:
    """The line to reach; returns what stands for the rings in the legend."""
    from matplotlib.lines import Line2D

    axes.axvspan(threshold, axes.get_xlim()[1], color="#009E73", alpha=0.07, linewidth=0, zorder=0)
    axes.axvline(threshold, color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    label = f"smallest strength with\nsafety ≥ {threshold:g} as drawn"
    return Line2D([], [], linestyle="none", label=label, markersize=11, markeredgecolor=FAINT, **_RING)


def _draw_anchors(axes: "Axes", anchors: Mapping[str, tuple[float, float]]) -> list[Any]:
    """Single models as black symbols; their names go to the legend, where they cannot cover a curve."""
    handles = []
    for (name, place), marker in zip(anchors.items(), cycle(_ANCHORS)):
        handles += axes.plot(
            *place,
            marker=marker,
            markersize=13 if marker == "*" else 9,
            color=INK,
            linestyle="none",
            label=legend_text(name),
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=6,
            clip_on=False,
        )
    return handles
