"""A table of rates as colours: harm categories, subjects or modules against models."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .style import FAINT, INK, SEQUENTIAL, add_axes, label_size, set_title, title_height, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["heatmap"]

_PRINTED_COLUMNS = 15
_ROW = 0.27  # inches
_LABEL_SIZE, _CELL_SIZE = 8.5, 7.5
_SLANT = 40  # degrees, for column labels wider than their cell


def heatmap(
    values: Sequence[Sequence[float | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    path_stem: Path,
    title: str,
    color_label: str = "",
    limits: tuple[float, float] | None = (0.0, 1.0),
    digits: int = 2,
) -> tuple[Path, Path]:
    """Draw a heat map and write it as PNG and SVG.

    Darker is more. Up to 15 columns, every cell shows its value as well, so that nothing rests on telling colours
    apart. A cell without a value is hatched and never coloured as 0.

    Args:
        values: one row of cells per row label; None or NaN where nothing was measured.
        row_labels: from top to bottom.
        column_labels: from left to right.
        path_stem: path without suffix; missing folders are made.
        title: above the picture.
        color_label: what the colour bar measures.
        limits: values of the lightest and the darkest colour, beyond which values are drawn as the end; None takes the
            least and the largest value.
        digits: after the decimal point, in cells.

    Returns:
        Paths of the PNG (200 dpi) and the SVG.

    Raises:
        DataError: no cells, rows or columns that do not fit their labels, infinite values, or limits without a range.
    """
    shape = [len(row) for row in values]
    if not row_labels or not column_labels or shape != [len(column_labels)] * len(row_labels):
        raise DataError(
            f"heatmap: rows of {shape} cells for {len(row_labels)} row and {len(column_labels)} column labels; "
            "expected as many as there are labels, at least one"
        )
    cells = [[math.nan if value is None else float(value) for value in row] for row in values]
    known = [value for row in cells for value in row if not math.isnan(value)]
    if not all(map(math.isfinite, known)):
        raise DataError(f"heatmap: infinite values among {len(known)} cells; pass None where nothing was measured")
    low, high = limits if limits is not None else (min(known, default=0.0), max(known, default=1.0))
    if limits is None and low == high:
        high = low + 1.0
    if not low < high:
        raise DataError(f"heatmap: limits {low} to {high}; expected a lower and a larger value")

    printed = len(column_labels) <= _PRINTED_COLUMNS
    texts = [[_text(value, digits) for value in row] for row in cells]
    needed = label_size([text for row in texts for text in row], _CELL_SIZE)[0] + 0.14
    column = max(0.42, needed) if printed else 0.2
    widest, _ = label_size(column_labels, _LABEL_SIZE)
    slanted = widest > column - 0.08
    angle = math.radians(_SLANT if printed else 90)
    below = 0.15 + (widest * math.sin(angle) + 0.12 if slanted else 0.2)
    # The first slanted label reaches to the left of its cell, under the row labels.
    lean = widest * math.cos(angle) - column / 2 if slanted else 0.0
    left = 0.25 + max(label_size(row_labels, _LABEL_SIZE)[0], lean)
    width, height = column * len(column_labels), _ROW * len(row_labels)
    figure_width = max(left + width + 1.05, 4.2)
    above = title_height(title, figure_width)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import Normalize

        axes = add_axes(figure, left, below, width, height)
        mesh = axes.pcolormesh(cells, cmap=SEQUENTIAL, norm=Normalize(low, high), edgecolors="white", linewidth=0.8)
        axes.patch.set(facecolor="#f4f4f4", hatch="////", edgecolor="#bbbbbb")
        axes.invert_yaxis()
        axes.set_xticks([i + 0.5 for i in range(len(column_labels))], column_labels, fontsize=_LABEL_SIZE)
        axes.set_yticks([i + 0.5 for i in range(len(row_labels))], row_labels, fontsize=_LABEL_SIZE)
        if slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=math.degrees(angle), ha="right", rotation_mode="anchor",
                          va="top" if printed else "center")  # fmt: skip
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if printed:
            for i, row in enumerate(cells):
                for j, value in enumerate(row):
                    dark = not math.isnan(value) and (value - low) / (high - low) > 0.55
                    axes.text(j + 0.5, i + 0.5, texts[i][j], ha="center", va="center", fontsize=_CELL_SIZE,
                              color="white" if dark else INK)  # fmt: skip
        scale = add_axes(figure, left + width + 0.18, below + max(0.0, height - 2.2), 0.13, min(height, 2.2))
        bar = figure.colorbar(mesh, cax=scale)
        bar.outline.set_visible(False)
        bar.set_label(color_label, fontsize=_LABEL_SIZE)
        scale.tick_params(labelsize=_CELL_SIZE, length=2, color=FAINT)
        if height < 0.9:
            bar.set_ticks([low, high])
        set_title(figure, title)

    return write_picture(path_stem, (figure_width, above + height + below), draw)


def _text(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
