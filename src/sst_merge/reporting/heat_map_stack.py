"""Tables of numbers as one picture of coloured tiles, one table above the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError
from .style import FAINT, INK, SEQUENTIAL, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HeatMap", "heat_maps"]

# Told apart with every common colour vision, as the map of values that only grow is: from blue
# over near-white to orange (the ends are Okabe and Ito's).
_TWO_SIDED = ("#0072B2", "#7fb8d8", "#f7f7f7", "#eaae7f", "#D55E00")
_ABSENT = "#d9d9d9"
_LABEL_WIDTH, _TITLE_WIDTH = 36, 84  # characters
_NUMBERED = 12  # columns up to which tiles carry their numbers
_MOST_LABELS = 32  # columns; of more, only some are named
_UPRIGHT = 4  # characters up to which a column's name stands upright
_LEFT, _RIGHT, _ABOVE, _WIDTH, _HEAD = 2.7, 1.0, 0.5, 8.6, 0.4  # inches
_TALLEST_BAR = 2.4  # inches


@dataclass(frozen=True)
class HeatMap:
    """One table.

    Attributes:
        title: above it.
        rows: names of the rows, from the top.
        columns: names of the columns.
        values: one sequence a row; None where there is no figure.
        limits: ends of the colour scale; values beyond them take the colour of the end.
        scale: ``growing`` from the lower limit, or ``two-sided`` around the middle of the limits.
        column_label: below the columns.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    limits: tuple[float, float]
    scale: Literal["growing", "two-sided"]
    column_label: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise DataError(f"heat map {self.title!r}: nothing to draw; expected at least one row and one column")
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            shape = f"{len(self.values)} rows of {sorted({len(row) for row in self.values})} values"
            raise DataError(f"heat map {self.title!r}: {shape} for {len(self.rows)} × {len(self.columns)} names")


def heat_maps(maps: Sequence[HeatMap], *, path_stem: Path, title: str) -> tuple[Path, Path]:
    """Draw tables below one another and write them as PNG and SVG.

    Narrow tables carry their numbers in the tiles. Same input and matplotlib, same bytes.

    Args:
        maps: at least one.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: no maps.
    """
    if not maps:
        raise DataError("heat_maps: nothing to draw; pass at least one map")
    heights = [max(0.5, 0.3 * len(item.rows)) for item in maps]
    total = _HEAD + sum(heights) + sum(_ABOVE + _below(item) for item in maps)

    def draw(figure: "Figure") -> None:
        figure.text(
            0.15 / _WIDTH, 1 - 0.12 / total, _cut(title, _TITLE_WIDTH), va="top", fontsize=11, fontweight="bold"
        )
        top = total - _HEAD
        for item, height in zip(maps, heights, strict=True):
            top -= _ABOVE
            _draw(figure, item, (_LEFT, top - height, _WIDTH - _LEFT - _RIGHT, height), total)
            top -= height + _below(item)

    return write_picture(path_stem, (_WIDTH, total), draw)


def _draw(figure: "Figure", item: HeatMap, box: tuple[float, float, float, float], total: float) -> None:
    """One table in a box of inches from the lower left: its axes, its tiles, its colour bar."""
    import numpy as np

    left, bottom, width, height = box
    width = min(width, max(0.9, 0.62 * len(item.columns)))
    axes = figure.add_axes((left / _WIDTH, bottom / total, width / _WIDTH, height / total))
    table = np.array([[np.nan if value is None else value for value in row] for row in item.values], dtype=float)
    image = axes.imshow(
        np.ma.masked_invalid(table), cmap=_colors(item.scale), vmin=item.limits[0], vmax=item.limits[1],
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    axes.set_title(item.title, loc="left", fontsize=9.5, pad=6)
    axes.set_xlabel(item.column_label)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(item.rows)), [_cut(name, _LABEL_WIDTH) for name in item.rows])
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if _slanted(item) else {}
    places = range(0, len(item.columns), -(-len(item.columns) // _MOST_LABELS))
    axes.set_xticks(places, [_cut(item.columns[place], _LABEL_WIDTH) for place in places], **slanted)
    if len(item.columns) <= _NUMBERED:
        _write_numbers(axes, item, image)
    tall = min(height, _TALLEST_BAR)
    bar = figure.add_axes((
        (left + width + 0.15) / _WIDTH,
        (bottom + height - tall) / total,
        0.12 / _WIDTH,
        tall / total,
    ))
    scale = figure.colorbar(image, cax=bar)
    scale.outline.set_visible(False)
    ticks = [item.limits[0], sum(item.limits) / 2, item.limits[1]]
    scale.set_ticks(ticks, labels=[_number(tick) for tick in ticks])
    bar.tick_params(length=2, color=FAINT, labelsize=8)


def _write_numbers(axes: "Axes", item: HeatMap, image: Any) -> None:
    for row, values in enumerate(item.values):
        for column, value in enumerate(values):
            text = "–" if value is None else _number(value)
            red, green, blue, _ = (1, 1, 1, 1) if value is None else image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)


def _number(value: float) -> str:
    # Rounding first: no tile shall say −0.00.
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _slanted(item: HeatMap) -> bool:
    return max(map(len, item.columns)) > _UPRIGHT


def _below(item: HeatMap) -> float:
    """Inches that the columns' names and label need."""
    longest = min(_LABEL_WIDTH, max(map(len, item.columns)))
    return 0.3 + (0.045 * longest if _slanted(item) else 0.0) + (0.2 if item.column_label else 0.0)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _colors(scale: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    chosen = colormaps[SEQUENTIAL] if scale == "growing" else LinearSegmentedColormap.from_list("two-sided", _TWO_SIDED)
    return chosen.with_extremes(bad=_ABSENT)
