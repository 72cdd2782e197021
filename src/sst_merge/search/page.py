"""The page of a search: every merge a point, and a click on one shows the command that makes it.

Plotly's script is in the page itself, so that it opens from a file and loads nothing from anywhere.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..texts import visible
from .config import Wanted

__all__ = ["PagePoint", "search_page"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f")
"""Told apart by readers who do not see red and green; the first seven are Okabe and Ito's."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")

_BAR = {"displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}
"""Nothing that would send the points elsewhere."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 72rem; margin: 1rem auto;
  padding: 0 1rem; overflow-wrap: break-word; }
#merge { border: 1px solid #8a8a8a; border-radius: 6px; padding: .7rem 1rem; margin: 1rem 0; }
#merge pre { background: #f2f2f2; padding: .6rem; overflow-x: auto; white-space: pre-wrap; word-break: break-all; }
button { font: inherit; padding: .2rem .8rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .2rem .7rem; text-align: left; }
.wide { overflow-x: auto; } tr { border-bottom: 1px solid #ddd; } td.n { text-align: right; }
tbody tr { cursor: pointer; } tbody tr:hover, tbody tr:focus { background: #f2f2f2; }
"""

_SCRIPT = """
const points = JSON.parse(document.getElementById("points").textContent);
function show(number) {
  const point = points[number];
  if (!point) return;
  document.getElementById("what").textContent = `Trial ${number}: ${point.label}, ${point.settings}`;
  document.getElementById("lines").textContent = point.lines.join(" · ");
  document.getElementById("command").textContent = point.command;
  document.getElementById("copied").textContent = "";
}
function copy() {
  const text = document.getElementById("command").textContent;
  const said = document.getElementById("copied");
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById("command"));
    getSelection().removeAllRanges(); getSelection().addRange(range);
    said.textContent = document.execCommand("copy") ? "copied" : "marked: press Ctrl+C";
  };
  if (navigator.clipboard && window.isSecureContext)
    navigator.clipboard.writeText(text).then(() => { said.textContent = "copied"; }, select);
  else select();
}
document.getElementById("front").on("plotly_click", event => show(event.points[0].customdata));
document.getElementById("copy").addEventListener("click", copy);
document.querySelectorAll("tbody tr").forEach(row => {
  row.addEventListener("click", () => show(row.dataset.trial));
  row.addEventListener("keydown", event => { if (event.key === "Enter") show(row.dataset.trial); });
});
"""


@dataclass(frozen=True)
class PagePoint:
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


def search_page(points: Sequence[PagePoint], wanted: Wanted, title: str) -> str:
    """The page.

    Args:
        points: all that were measured.
        wanted: which merge is the best, drawn as a line.
        title: heading.

    Returns:
        HTML that needs no other file and no network; the same points give the same bytes.

    Raises:
        ConfigError: Plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError("the page of a search needs Plotly: pip install 'sst-merge[search]'") from error
    figure = _figure(go, points, wanted)
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id="front", config=_BAR)
    first = next((p for p in points if p.best), next((p for p in points if p.on_front), None))
    known = {
        str(p.number): {
            "label": visible(p.label),
            "settings": visible(p.settings),
            "lines": [visible(line) for line in p.lines],
            "command": visible(p.command),
        }
        for p in points
    }
    start = "" if first is None else f"show({json.dumps(str(first.number))});"
    return "\n".join([
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
        f"<h1>{_text(title)}</h1>",
        f"<p>{len(points)} merges, measured on dev prompts. Wanted: the most skilled of those that refuse at least "
        f"{wanted.safety:.0%} of harmful prompts and at most {wanted.over_refusal:.0%} of harmless ones. Hollow points "
        "refuse too many harmless ones. The best of many measured on the same prompts looks better than it is: measure "
        "the one you take on other prompts.</p>",
        drawn,
        '<div id="merge"><strong id="what">Click on a point.</strong><div id="lines"></div>',
        '<pre id="command"></pre><button id="copy" type="button">Copy</button> <span id="copied"></span></div>',
        _front_table(points),
        f'<script type="application/json" id="points">{_inside_script(known)}</script>',
        f"<script>{_SCRIPT}{start}</script>",
        "</body></html>",
        "",
    ])


def _figure(go: Any, points: Sequence[PagePoint], wanted: Wanted) -> Any:
    figure = go.Figure()
    edge = sorted((p for p in points if p.on_front), key=lambda p: p.safety)
    if edge:
        figure.add_scatter(
            x=[p.safety for p in edge],
            y=[p.skill for p in edge],
            customdata=[p.number for p in edge],
            mode="lines",
            line={"color": "#444444", "width": 1, "dash": "dot"},
            name="front",
            hoverinfo="skip",
        )
    for place, label in enumerate(dict.fromkeys(p.label for p in points)):
        of = [p for p in points if p.label == label]
        colour = _COLOURS[place % len(_COLOURS)]
        figure.add_scatter(
            x=[p.safety for p in of],
            y=[p.skill for p in of],
            customdata=[p.number for p in of],
            text=["<br>".join(_text(line) for line in (f"{p.label}, {p.settings}", *p.lines)) for p in of],
            hovertemplate="%{text}<extra>%{customdata}</extra>",
            mode="markers",
            name=_text(label),
            marker={
                "color": [colour if p.within else "rgba(0,0,0,0)" for p in of],
                "size": [15 if p.best else 11 if p.on_front else 8 for p in of],
                "symbol": _SYMBOLS[place // len(_COLOURS) % len(_SYMBOLS)],
                "line": {"color": colour, "width": 1.5},
            },
        )
    figure.add_vline(x=wanted.safety, line={"color": "#999999", "width": 1, "dash": "dash"})
    figure.update_layout(
        template="simple_white",
        height=560,
        xaxis={"title": "safety: harmful prompts refused", "range": [-0.03, 1.03]},
        yaxis={"title": "skill: mean score", "range": [-0.03, 1.03]},
        # Beside the points it would leave them no room on a telephone.
        legend={"title": {"text": "method"}, "orientation": "h", "y": -0.2},
        hovermode="closest",
        margin={"t": 20},
    )
    return figure


def _front_table(points: Sequence[PagePoint]) -> str:
    """The front, for readers without a pointer and for those who print it."""
    rows = [
        f'<tr data-trial="{p.number}" tabindex="0"><td class="n">{p.number}</td><td>{_text(p.label)}</td>'
        f'<td>{_text(p.settings)}</td><td class="n">{p.safety:.2f}</td><td class="n">{p.skill:.2f}</td>'
        f"<td>{'chosen' if p.best else ''}</td></tr>"
        for p in sorted((p for p in points if p.on_front or p.best), key=lambda p: -p.safety)
    ]
    head = "".join(f"<th>{name}</th>" for name in ("trial", "method", "settings", "safety", "skill", ""))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _text(text: str) -> str:
    return html.escape(visible(text))


def _inside_script(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
