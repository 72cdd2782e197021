"""The page of a search: every merge a point, and a click on one shows the command that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..errors import ConfigError
from ..markup import plotly_text, script_json
from ..texts import visible
from .pages import render_page
from .plotly_charts import library

__all__ = ["MergePoint", "search_page"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f")
"""Told apart by readers who do not see red and green, on light and on dark; the first six are Okabe and Ito's."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


@dataclass(frozen=True)
class MergePoint:
    """One measured merge.

    Attributes:
        number: of its trial.
        label: form of the method.
        settings: in words.
        safety: refusals of harmful dev prompts, in [0, 1].
        skill: mean score of the skills.
        lines: figures with intervals.
        within: whether its over-refusal is within the limit.
        on_front: whether no other merge beats it.
        best: whether it is the chosen one.
        command: what makes it.
    """

    number: int
    label: str
    settings: str
    safety: float
    skill: float
    lines: tuple[str, ...]
    within: bool
    on_front: bool
    best: bool
    command: str


def search_page(points: Sequence[MergePoint], *, safety: float, over_refusal: float, title: str) -> str:
    """The page of a search.

    Args:
        points: all that were measured.
        safety: refusals of harmful prompts that the best merge must have, drawn as a line.
        over_refusal: refusals of harmless prompts that it may have.
        title: heading.

    Returns:
        HTML that needs no other file and no network; the same points give the same bytes.

    Raises:
        ConfigError: Plotly is not installed.
    """
    found = library()
    if found is None:
        raise ConfigError("the page of a search needs Plotly: pip install 'sst-merge[search]'")
    known = {
        str(p.number): {
            "label": visible(p.label),
            "settings": visible(p.settings),
            "lines": [visible(line) for line in p.lines],
            "command": visible(p.command),
        }
        for p in points
    }
    return render_page(
        "search.html",
        title=title,
        points=points,
        safety=safety,
        over_refusal=over_refusal,
        edge=sorted((p for p in points if p.on_front or p.best), key=lambda p: -p.safety),
        known=Markup(script_json(known)),
        figure=Markup(script_json(_figure(points, safety))),
        library=found,
    )


def _figure(points: Sequence[MergePoint], safety: float) -> dict[str, Any]:
    """Plotly's JSON; the script adds the colours of the page, light or dark."""
    edge = sorted((p for p in points if p.on_front), key=lambda p: p.safety)
    front = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [p.safety for p in edge],
        "y": [p.skill for p in edge],
        "line": {"width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    labels = dict.fromkeys(p.label for p in points)
    return {
        "data": [
            *([front] if edge else []),
            *(_form(number, label, [p for p in points if p.label == label]) for number, label in enumerate(labels)),
        ],
        "layout": {
            "xaxis": {"title": {"text": "safety: harmful prompts refused"}, "range": [-0.03, 1.03]},
            "yaxis": {"title": {"text": "skill: mean score"}, "range": [-0.03, 1.03]},
            "shapes": [
                {"type": "line", "x0": safety, "x1": safety, "y0": 0, "y1": 1, "yref": "paper"}
                | {"line": {"width": 1, "dash": "dash"}}
            ],
            # Beside the points it would leave them no room on a telephone.
            "legend": {"title": {"text": "method"}, "orientation": "h", "y": -0.2},
            "hovermode": "closest",
            "margin": {"t": 20},
        },
    }


def _form(number: int, label: str, points: Sequence[MergePoint]) -> dict[str, Any]:
    """The points of one form of a method, in one look."""
    color = _COLORS[number % len(_COLORS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(label),
        "x": [p.safety for p in points],
        "y": [p.skill for p in points],
        "customdata": [p.number for p in points],
        "text": ["<br>".join(map(plotly_text, (f"{p.label}, {p.settings}", *p.lines))) for p in points],
        "hovertemplate": "%{text}<extra>%{customdata}</extra>",
        "marker": {
            "color": [color if p.within else "rgba(0,0,0,0)" for p in points],
            "size": [15 if p.best else 11 if p.on_front else 8 for p in points],
            "symbol": _SYMBOLS[number // len(_COLORS) % len(_SYMBOLS)],
            "opacity": 1,
            "line": {"color": color, "width": 1.5},
        },
    }
