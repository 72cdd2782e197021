"""A table of numbers as tiles in SVG, for a page; darker is more, in light and dark pages alike."""

from collections.abc import Sequence

from markupsafe import Markup

from ..texts import visible
from .chart_svg import WIDTH, svg_text
from .heat_map import HeatMap

__all__ = ["TILE_COLORS", "tiles_svg"]

TILE_COLORS = ("#ffffd9", "#c7e9b4", "#41b6c4", "#225ea8", "#081d58")
"""ColorBrewer's YlGnBu, as the pictures in files have it."""

_ROW, _HEAD, _LETTER = 24, 26, 6.6
_NUMBERED, _MOST_LABELS = 12, 24


def tiles_svg(tiles: HeatMap, *, label: str) -> Markup:
    """A heat map as an SVG element; a tile without a figure is an empty frame.

    Args:
        tiles: the table; its scale grows from the lower limit.
        label: what a screen reader says.
    """
    left = min(0.4 * WIDTH, max(map(len, tiles.rows)) * _LETTER + 14)
    wide = (WIDTH - left - 4) / len(tiles.columns)
    each = -(-len(tiles.columns) // _MOST_LABELS)
    parts = []
    for row, (name, values) in enumerate(zip(tiles.rows, tiles.values, strict=True)):
        top = _HEAD + _ROW * row
        parts.append(svg_text(left - 8, top + 16, _cut(name, left), anchor="end", css="tick"))
        for column, value in enumerate(values):
            parts += _tile(tiles, name, column, value, left + column * wide, top, wide)
    parts += [
        svg_text(left + (column + 0.5) * wide, _HEAD - 8, tiles.columns[column], css="tick")
        for column in range(0, len(tiles.columns), each)
    ]
    height = _HEAD + _ROW * len(tiles.rows) + 44
    parts += _scale(tiles, left, height - 34)
    return Markup('<svg class="still" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, visible(label), Markup("\n").join(parts)
    )


def _tile(
    tiles: HeatMap, row: str, column: int, value: float | None, x: float, y: float, wide: float
) -> Sequence[Markup]:
    said = "–" if value is None else f"{value:.4g}"
    fill, ink = ("none", "var(--ink)") if value is None else _color(tiles, value)
    parts = [
        Markup(
            '<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" style="fill: {}" class="tile"><title>{}</title></rect>'
        ).format(x, y, max(wide - 1, 1), _ROW - 1, fill, visible(f"{row}, {tiles.columns[column]}: {said}"))
    ]
    if len(tiles.columns) <= _NUMBERED:
        text = "–" if value is None else f"{value:.3g}"
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle" class="in" style="fill: {}">{}</text>').format(
                x + wide / 2, y + 16, ink, text
            )
        )
    return parts


def _scale(tiles: HeatMap, x: float, y: float) -> list[Markup]:
    """The colours from the lower limit to the upper one, below the tiles."""
    low, high = tiles.limits
    steps = 20
    parts = [
        Markup('<rect x="{:.1f}" y="{}" width="8.2" height="10" style="fill: {}"/>').format(
            x + 8 * i, y, _color(tiles, low + (high - low) * i / (steps - 1))[0]
        )
        for i in range(steps)
    ]
    ends = f"{low:.3g} to {high:.3g}".replace("-", "−") + (f": {tiles.color_label}" if tiles.color_label else "")
    return [*parts, svg_text(x + 8 * steps + 10, y + 10, ends, anchor="start", css="tick")]


def _color(tiles: HeatMap, value: float) -> tuple[str, str]:
    """Colour of a value, and that of a number on it."""
    low, high = tiles.limits
    at = min(max((value - low) / (high - low), 0.0), 1.0) * (len(TILE_COLORS) - 1)
    below = min(int(at), len(TILE_COLORS) - 2)
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in TILE_COLORS[below : below + 2]]
    red, green, blue = (round(a + (b - a) * (at - below)) for a, b in zip(*ends, strict=True))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if dark else "#111111"


def _cut(name: str, room: float) -> str:
    most = int((room - 14) / _LETTER)
    return name if len(name) <= most else f"…{name[1 - most :]}"
