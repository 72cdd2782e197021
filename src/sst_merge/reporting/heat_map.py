"""Tables of numbers as one picture of coloured tiles, one table above the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError
from .style import FAINT, INK, SEQUENTIAL, add_axes, label_size, picture_text, set_title, title_height, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HeatMap", "heat_maps"]

# Told apart with every common colour vision, as the map of values that only grow is: from blue
# over near-white to orange (the ends are Okabe and Ito's).
_TWO_SIDED = ("#0072B2", "#7fb8d8", "#f7f7f7", "#eaae7f", "#D55E00")
_ABSENT = "#d9d9d9"
_LABEL_WIDTH = 60  # characters
_NUMBERED = 12  # columns up to which tiles carry their numbers
_MOST_LABELS = 32  # columns; of more, only some are named
_UPRIGHT = 4  # characters up to which a column's name stands upright
_SLANT = math.radians(30)
_ROW, _ABOVE, _PANEL, _BESIDE = 0.3, 0.5, 4.9, 1.0  # inches; beside: the colour bar and its numbers
_TALLEST_BAR = 2.4  # inches
_LABEL_SIZE, _TITLE_SIZE, _SMALL = 9.0, 9.5, 8.0  # points


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
        color_label: beside the colour bar.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    limits: tuple[float, float] = (0.0, 1.0)
    scale: Literal["growing", "two-sided"] = "growing"
    column_label: str = ""
    color_label: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise DataError(f"heat map {self.title!r}: nothing to draw; expected at least one row and one column")
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            shape = f"{len(self.values)} rows of {sorted({len(row) for row in self.values})} values"
            raise DataError(f"heat map {self.title!r}: {shape} for {len(self.rows)} × {len(self.columns)} names")
        if not all(value is None or math.isfinite(value) for row in self.values for value in row):
            raise DataError(f"heat map {self.title!r}: NaN or infinite values; pass None where nothing was measured")
        if not self.limits[0] < self.limits[1]:
            raise DataError(f"heat map {self.title!r}: limits {self.limits}; expected a lower and a larger value")

    @property
    def width(self) -> float:
        """Of the tiles, in inches."""
        return min(_PANEL, max(0.9, 0.62 * len(self.columns)))

    @property
    def height(self) -> float:
        """Of the tiles, in inches."""
        return max(0.5, _ROW * len(self.rows))

    @property
    def slanted(self) -> bool:
        """Whether the columns' names are too long to stand upright side by side."""
        return max(len(_cut(name)) for name in self.columns) > _UPRIGHT

    @property
    def margins(self) -> tuple[float, float]:
        """Inches to the left of the tiles and below them that names and labels need."""
        rows, _ = label_size([_cut(name) for name in self.rows], _LABEL_SIZE)
        columns, _ = label_size([_cut(name) for name in self.columns], _LABEL_SIZE)
        # The first slanted name reaches to the left of its tile, under the rows' names.
        lean = columns * math.cos(_SLANT) - self.width / len(self.columns) / 2 if self.slanted else 0.0
        below = 0.3 + (columns * math.sin(_SLANT) + 0.1 if self.slanted else 0.0)
        return 0.3 + max(rows, lean), below + (0.2 if self.column_label else 0.0)


def heat_maps(maps: Sequence[HeatMap], *, path_stem: Path, title: str) -> tuple[Path, Path]:
    """Draw tables below one another and write them as PNG and SVG.

    Up to 12 columns the tiles carry their numbers, so that nothing rests on telling colours apart. A tile without a
    figure is grey and never coloured as 0. Same input and matplotlib, same bytes.

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
    margins = [item.margins for item in maps]
    left = max(margin for margin, _ in margins)
    titles = max(label_size([item.title for item in maps], _TITLE_SIZE)[0] + 0.3, 4.2)
    width = left + max(titles, *(item.width + _BESIDE + (0.2 if item.color_label else 0.0) for item in maps))
    head = title_height(title, width)
    height = head + sum(_ABOVE + item.height + below for item, (_, below) in zip(maps, margins, strict=True))

    def draw(figure: "Figure") -> None:
        set_title(figure, title)
        top = height - head
        for item, (_, below) in zip(maps, margins, strict=True):
            top -= _ABOVE + item.height
            _draw(figure, item, left, top)
            top -= below

    return write_picture(path_stem, (width, height), draw)


def _draw(figure: "Figure", item: HeatMap, left: float, bottom: float) -> None:
    """One table: its axes at a place in inches, its tiles, its colour bar."""
    import numpy as np

    axes = add_axes(figure, left, bottom, item.width, item.height)
    table = np.array([[np.nan if value is None else value for value in row] for row in item.values], dtype=float)
    low, high = item.limits
    tiles: dict[str, Any] = {"cmap": _colors(item.scale), "vmin": low, "vmax": high}
    image = axes.imshow(np.ma.masked_invalid(table), aspect="auto", interpolation="nearest", **tiles)
    axes.set_title(picture_text(item.title), loc="left", fontsize=_TITLE_SIZE, pad=6)
    axes.set_xlabel(picture_text(item.column_label))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=_LABEL_SIZE)
    axes.set_yticks(range(len(item.rows)), [_cut(name) for name in item.rows])
    places = range(0, len(item.columns), -(-len(item.columns) // _MOST_LABELS))
    axes.set_xticks(places, [_cut(item.columns[place]) for place in places])
    if item.slanted:
        for label in axes.get_xticklabels():
            label.set(rotation=math.degrees(_SLANT), ha="right", rotation_mode="anchor")
    if len(item.columns) <= _NUMBERED:
        _write_numbers(axes, item, image)
    tall = min(item.height, _TALLEST_BAR)
    bar = add_axes(figure, left + item.width + 0.15, bottom + item.height - tall, 0.12, tall)
    scale = figure.colorbar(image, cax=bar)
    scale.outline.set_visible(False)
    ticks = [low, (low + high) / 2, high]
    scale.set_ticks(ticks, labels=[_number(tick) for tick in ticks])
    scale.set_label(picture_text(item.color_label), fontsize=_SMALL)
    bar.tick_params(length=2, color=FAINT, labelsize=_SMALL)


def _write_numbers(axes: "Axes", item: HeatMap, image: Any) -> None:
    for row, values in enumerate(item.values):
        for column, value in enumerate(values):
            text = "–" if value is None else _number(value)
            red, green, blue, _ = (1, 1, 1, 1) if value is None else image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(column, row, text, ha="center", va="center", fontsize=_SMALL, color="white" if dark else INK)


def _number(value: float) -> str:
    # Rounding first: no tile shall say −0.00.
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _cut(name: str) -> str:
    shown = picture_text(name)
    return shown if len(shown) <= _LABEL_WIDTH else f"{shown[: _LABEL_WIDTH - 1]}…"


def _colors(scale: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    chosen = colormaps[SEQUENTIAL] if scale == "growing" else LinearSegmentedColormap.from_list("two-sided", _TWO_SIDED)
    return chosen.with_extremes(bad=_ABSENT)
