"""Charts as SVG for a page: text is text, colours follow the page's, light or dark, and nothing is loaded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..errors import DataError
from ..texts import visible
from .charts import Chart, Curve

__all__ = ["LOOKS", "WIDTH", "axis_ticks", "chart_svg", "legend", "svg_text"]

WIDTH = 500
_HEIGHT, _LEFT, _RIGHT, _ABOVE, _BELOW = 300, 62, 54, 14, 48
LOOKS: Sequence[tuple[str, str, str]] = (
    ("var(--one)", "", "circle"),
    ("var(--two)", "6 3", "square"),
    ("var(--three)", "2 2", "triangle"),
    ("var(--four)", "7 2 2 2", "diamond"),
)
"""Colour, dashes and marker of each curve: differing together, so that none has to be told by its colour."""

_UPPER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Axis:
    """One axis: its values, and where they lie.

    Attributes:
        low: least value.
        high: largest value.
        log: whether it is logarithmic.
        start: place of the least value, in the picture's units.
        end: place of the largest.
    """

    low: float
    high: float
    log: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def chart_svg(chart: Chart, *, label: str) -> Markup:
    """A chart as an SVG element.

    Args:
        chart: with at least one point that its axes can show.
        label: what a screen reader says.

    Raises:
        DataError: no point to show.
    """
    drawn = [(curve, chart.drawn(curve)) for curve in chart.curves]
    left = [(x, y) for curve, points in drawn for x, y, _ in points if not curve.right]
    if not left:
        raise DataError(f"chart {label!r}: no point that its axes can show; expected at least one")
    xs = [*(x for _, points in drawn for x, _, _ in points), *(x for x, _ in chart.limits)]
    ys = [*(y for _, y in left), *(y for y, _ in chart.floors)]
    if chart.diagonal:
        xs = ys = [*xs, *ys]
    across = _Axis(*_range(xs, chart.x_log), chart.x_log, _LEFT, WIDTH - _RIGHT)
    up = _Axis(*_range(ys, chart.y_log), chart.y_log, _HEIGHT - _BELOW, _ABOVE)
    beside = _Axis(0.0, 1.0, False, _HEIGHT - _BELOW, _ABOVE)
    parts = [*_grid(chart, across, up, beside)]
    for number, (curve, points) in enumerate(drawn):
        places = [(across.place(x), (beside if curve.right else up).place(y)) for x, y, _ in points]
        parts += _curve(curve, number, places, [note for *_, note in points])
    return _element(parts, _HEIGHT, label)


def legend(chart: Chart) -> list[tuple[Markup, str]]:
    """A sample of every curve's look, with its name; none for a single curve."""
    if len(chart.curves) < 2:
        return []
    found = []
    for number, curve in enumerate(chart.curves):
        places = [(17.0, 11.0)] if curve.look in {"points", "chosen"} else [(2.0, 11.0), (32.0, 11.0)]
        drawn = Markup("").join(_curve(curve, number, places, [""] * len(places)))
        found.append((Markup('<svg viewBox="0 0 34 22" aria-hidden="true">{}</svg>').format(drawn), curve.name))
    return found


def axis_ticks(low: float, high: float, *, log: bool) -> list[tuple[float, str]]:
    """Round values within an axis, and how they are written."""
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / 7))
        found = [(10.0**n, "10" + str(n).translate(_UPPER)) for n in range(first, last + 1, every)]
        return found if len(found) > 1 else [(low, f"{low:.3g}"), (high, f"{high:.3g}")]
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * of for of in (1, 2, 5, 10) if size * of >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:.6g}".replace("-", "−")) for n in range(first, last + 1)]


def svg_text(x: float, y: float, text: str, *, anchor: str = "middle", css: str = "", turn: float = 0.0) -> Markup:
    """A text element; the text is escaped."""
    turned = Markup(' transform="rotate({} {:.1f} {:.1f})"').format(turn, x, y) if turn else ""
    named = Markup(' class="{}"').format(css) if css else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}{}>{}</text>').format(
        x, y, anchor, named, turned, visible(text)
    )


def _element(parts: Sequence[Markup], height: float, label: str) -> Markup:
    return Markup('<svg class="still" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, visible(label), Markup("\n").join(parts)
    )


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of an axis with a margin."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.04, 1.2)
        return low / room, high * room
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _grid(chart: Chart, across: _Axis, up: _Axis, beside: _Axis) -> list[Markup]:
    line = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    right, bottom = WIDTH - _RIGHT, _HEIGHT - _BELOW
    parts = []
    for value, text in axis_ticks(across.low, across.high, log=across.log):
        at = across.place(value)
        parts += [line.format(at, _ABOVE, at, bottom, "grid"), svg_text(at, bottom + 17, text, css="tick")]
    for value, text in axis_ticks(up.low, up.high, log=up.log):
        at = up.place(value)
        parts += [
            line.format(_LEFT, at, right, at, "grid"),
            svg_text(_LEFT - 7, at + 4, text, anchor="end", css="tick"),
        ]
    if any(curve.right for curve in chart.curves):
        for value in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(svg_text(right + 7, beside.place(value) + 4, f"{value:g}", anchor="start", css="tick"))
        parts.append(svg_text(WIDTH - 12, (_ABOVE + bottom) / 2, chart.right, turn=90))
    for value, text in chart.limits:
        at = across.place(value)
        parts += [line.format(at, _ABOVE, at, bottom, "limit"), svg_text(at - 5, _ABOVE + 12, text, anchor="end")]
    for value, text in chart.floors:
        at = up.place(value)
        parts += [line.format(_LEFT, at, right, at, "limit"), svg_text(_LEFT + 6, at - 5, text, anchor="start")]
    if chart.diagonal:
        ends = [(across.place(value), up.place(value)) for value in (across.low, across.high)]
        parts += [line.format(*ends[0], *ends[1], "limit")]
    parts.append(svg_text((_LEFT + right) / 2, _HEIGHT - 12, chart.x))
    parts.append(svg_text(16, (_ABOVE + bottom) / 2, chart.y, turn=-90))
    return parts


def _curve(curve: Curve, number: int, places: Sequence[tuple[float, float]], notes: Sequence[str]) -> list[Markup]:
    color, dashes, marker = LOOKS[number % len(LOOKS)]
    parts = []
    if curve.look in {"line", "joined"} and len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" style="stroke: {}" stroke-width="2" stroke-dasharray="{}"/>'
            ).format(path, color, dashes or "none")
        )
    if curve.look == "chosen":
        marker, color = "ring", "var(--mark)"
    for (x, y), note in zip(places, notes, strict=True):
        # A line alone has places to point at, which are not seen.
        shape = _SHAPES["none" if curve.look == "line" else marker](x, y)
        said = Markup("<title>{}</title>").format(visible(note)) if note else ""
        parts.append(Markup('<g style="--c: {}">{}{}</g>').format(color, shape, said))
    return parts


def _path(*corners: tuple[float, float]) -> Callable[[float, float], Markup]:
    def draw(x: float, y: float) -> Markup:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        return Markup('<polygon points="{}" class="dot"/>').format(points)

    return draw


def _round(radius: float, css: str) -> Callable[[float, float], Markup]:
    return lambda x, y: Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"/>').format(x, y, radius, css)


_SHAPES: dict[str, Callable[[float, float], Markup]] = {
    "none": _round(6, "unseen"),
    "circle": _round(3.8, "dot"),
    "ring": _round(8, "ring"),
    "square": _path((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
    "triangle": _path((0, -4.8), (4.4, 3.4), (-4.4, 3.4)),
    "diamond": _path((0, -5), (4.2, 0), (0, 5), (-4.2, 0)),
}
