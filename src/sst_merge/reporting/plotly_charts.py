"""The same charts for Plotly, where the extra ``report`` is installed; its library is packed into the page.

A page must open from a file and load nothing. The library has 4.8 MB and packed 2 MB, which every browser of the last
years unpacks by itself; where one does not, the SVG stays.
"""

import base64
import gzip
import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from ..markup import plotly_text
from .chart_svg import LOOKS
from .charts import Chart, Curve, Shown
from .heat_map import HeatMap
from .tile_svg import TILE_COLORS

__all__ = ["Library", "library", "plotly_figure"]

_MARKERS = {"circle": "circle", "square": "square", "triangle": "triangle-up", "diamond": "diamond"}


class Library(NamedTuple):
    """Plotly's JavaScript.

    Attributes:
        packed: gzip in base64.
        version: of the Python package it came with.
    """

    packed: str
    version: str


def library() -> Library | None:
    """The library to put into a page; None where Plotly is not installed."""
    return _library() if find_spec("plotly") is not None else None


@cache
def _library() -> Library:
    from plotly import __version__
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)
    return Library(base64.b64encode(packed).decode("ascii"), str(__version__))


def plotly_figure(shown: Shown) -> dict[str, Any]:
    """A picture as Plotly's JSON; colours are names of the page's, light or dark, which its script fills in."""
    picture = shown.picture
    return _tiles(picture) if isinstance(picture, HeatMap) else _curves(picture)


def _tiles(tiles: HeatMap) -> dict[str, Any]:
    steps = len(TILE_COLORS) - 1
    trace = {
        "type": "heatmap",
        "x": [plotly_text(name) for name in tiles.columns],
        "y": [plotly_text(name) for name in tiles.rows],
        "z": [list(row) for row in tiles.values],
        "zmin": tiles.limits[0],
        "zmax": tiles.limits[1],
        "xgap": 1,
        "ygap": 1,
        "colorscale": [[i / steps, color] for i, color in enumerate(TILE_COLORS)],
        "colorbar": {"title": {"text": plotly_text(tiles.color_label), "side": "right"}, "thickness": 14},
        "hovertemplate": "%{y}, %{x}: %{z:.4g}<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "title": {"text": plotly_text(tiles.column_label)}},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "height": 130 + 24 * len(tiles.rows),
    }
    return {"data": [trace], "layout": layout}


def _curves(chart: Chart) -> dict[str, Any]:
    data = [_curve(chart, curve, number) for number, curve in enumerate(chart.curves)]
    lines = [{"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"} for x, _ in chart.limits]
    lines += [{"y0": y, "y1": y, "x0": 0, "x1": 1, "xref": "paper"} for y, _ in chart.floors]
    if chart.diagonal:
        both = [value for curve in chart.curves for x, y, _ in chart.drawn(curve) for value in (x, y)]
        lines.append({"x0": min(both), "y0": min(both), "x1": max(both), "y1": max(both)})
    # A note's place on a logarithmic axis is given as its logarithm, a line's is not.
    notes = [
        {"x": x, "y": 1, "yref": "paper", "text": text, "xanchor": "right", "log": "x"} for x, text in chart.limits
    ]
    notes += [
        {"x": 0, "y": y, "xref": "paper", "text": text, "xanchor": "left", "log": "y"} for y, text in chart.floors
    ]
    layout: dict[str, Any] = {
        "xaxis": _axis(chart.x, chart.x_log, [x for curve in chart.curves for x, _, _ in chart.drawn(curve)]),
        "yaxis": _axis(chart.y, chart.y_log, [y for c in chart.curves if not c.right for _, y, _ in chart.drawn(c)]),
        "shapes": [{"type": "line", "line": {"dash": "dot", "width": 1.5}, **line} for line in lines],
        "annotations": [_note(chart, note) for note in notes],
        "height": 400,
    }
    if any(curve.right for curve in chart.curves):
        layout["yaxis2"] = {
            "title": {"text": plotly_text(chart.right)},
            "overlaying": "y",
            "side": "right",
            "range": [-0.04, 1.04],
            "tickmode": "linear",
            "tick0": 0,
            "dtick": 0.25,
            "showgrid": False,
        }
    return {"data": data, "layout": layout}


def _axis(label: str, log: bool, values: Sequence[float]) -> dict[str, Any]:
    axis = {"title": {"text": plotly_text(label)}, "type": "log" if log else "linear", "exponentformat": "power"}
    decades = math.log10(max(values) / min(values)) if log else 0.0
    # Over several powers of ten few of them are named; otherwise Plotly also writes the numbers between them.
    return axis | ({"dtick": math.ceil(decades / 5), "tickangle": 0} if decades > 2 else {})


def _note(chart: Chart, note: dict[str, Any]) -> dict[str, Any]:
    axis = note.pop("log")
    if (chart.x_log if axis == "x" else chart.y_log) and note[axis] > 0:
        note[axis] = math.log10(note[axis])
    return note | {"text": plotly_text(note["text"]), "showarrow": False, "yanchor": "bottom"}


def _curve(chart: Chart, curve: Curve, number: int) -> dict[str, Any]:
    color, dashes, marker = LOOKS[number % len(LOOKS)]
    points = chart.drawn(curve)
    mode = {"line": "lines", "joined": "lines+markers", "points": "markers", "chosen": "markers"}[curve.look]
    look: dict[str, Any] = {"size": 8, "symbol": _MARKERS[marker], "color": color}
    if curve.look == "chosen":
        look = {"size": 18, "symbol": "circle-open", "color": "var(--mark)", "line": {"width": 3}}
    return {
        "type": "scatter",
        "name": plotly_text(curve.name),
        "x": [x for x, _, _ in points],
        "y": [y for _, y, _ in points],
        "text": [plotly_text(note) for _, _, note in points],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": mode,
        "marker": look,
        "line": {"color": color, "width": 2, "dash": ",".join(f"{n}px" for n in dashes.split()) or "solid"},
        "yaxis": "y2" if curve.right else "y",
    }
