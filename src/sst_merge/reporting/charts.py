"""What an interactive picture shows, as data: one description, drawn as SVG, by Plotly, and written as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .heat_map import HeatMap
from .pages import PageTable

__all__ = ["Chart", "Curve", "Shown", "where_shown"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points in one look.

    Attributes:
        name: in the legend.
        points: (x, y).
        look: a line, points joined by a line, points alone, or the one point that was chosen.
        notes: what a pointer on a point reads, one a point; the coordinates where there are none.
        right: whether y belongs to the right axis, which runs from 0 to 1.
    """

    name: str
    points: Sequence[tuple[float, float]]
    look: Literal["line", "joined", "points", "chosen"] = "line"
    notes: Sequence[str] = ()
    right: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over common axes.

    Attributes:
        x: label of the horizontal axis.
        y: label of the left axis.
        curves: drawn in this order, told apart by line, marker and colour together.
        x_log: whether the horizontal axis is logarithmic; points that are not positive are left out.
        y_log: the same of the left axis.
        right: label of the right axis, where a curve belongs to it.
        limits: vertical lines, as (x, what it is).
        floors: horizontal lines, as (y, what it is).
        diagonal: whether y = x is drawn.
    """

    x: str
    y: str
    curves: Sequence[Curve]
    x_log: bool = False
    y_log: bool = False
    right: str = ""
    limits: Sequence[tuple[float, str]] = ()
    floors: Sequence[tuple[float, str]] = ()
    diagonal: bool = False

    def drawn(self, curve: Curve) -> list[tuple[float, float, str]]:
        """Points of a curve that the axes can show, with their notes."""
        notes = curve.notes or [f"{x:.4g}, {y:.4g}" for x, y in curve.points]
        return [
            (x, y, note)
            for (x, y), note in zip(curve.points, notes, strict=True)
            if not (self.x_log and x <= 0) and not (self.y_log and not curve.right and y <= 0)
        ]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a page.

    Attributes:
        title: heading.
        caption: what is seen, in a sentence or two.
        picture: the description.
        table: the same figures, for whoever does not see the picture.
    """

    title: str
    caption: str
    picture: Chart | HeatMap
    table: PageTable


def where_shown(shown: Shown) -> Shown | None:
    """The picture of a chart, if its axes can show anything of it."""
    assert isinstance(shown.picture, Chart)
    return shown if any(shown.picture.drawn(curve) for curve in shown.picture.curves if not curve.right) else None
