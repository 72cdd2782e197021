"""How every picture looks, and how it is written: print-ready, told apart without colour, the same bytes every time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "FAINT",
    "GRID",
    "INK",
    "LEGEND_WIDTH",
    "MARKERS",
    "SEQUENTIAL",
    "add_axes",
    "curve_look",
    "label_size",
    "set_title",
    "title_height",
    "write_picture",
]

# Okabe and Ito's colours, told apart with every common colour vision; their yellow is too faint on white.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
# ColorBrewer's map for ordered values: colour-blind-safe, and darker is more on a grey printer too.
SEQUENTIAL = "YlGnBu"
INK, FAINT, GRID = "#222222", "#6b6b6b", "#e6e6e6"
LEGEND_WIDTH = 24  # characters
_FONT_SIZE, _TITLE_SIZE = 9.5, 11.0
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": _FONT_SIZE,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "sst-merge",
}


def write_picture(path_stem: Path, size: tuple[float, float], draw: Callable[["Figure"], None]) -> tuple[Path, Path]:
    """Draw a figure in the house style and write it as PNG and SVG, aside first and renamed.

    Args:
        path_stem: path without suffix; missing folders are made.
        size: width and height in inches.
        draw: puts everything on the empty figure.

    Returns:
        Paths of the PNG (200 dpi) and the SVG; same drawing and matplotlib, same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    png, svg = (path_stem.with_name(f"{path_stem.name}{suffix}") for suffix in (".png", ".svg"))
    with rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
            with atomic_file(path) as aside:
                figure.savefig(aside, format=path.suffix[1:], metadata=metadata)
    return png, svg


def curve_look(index: int, name: str, *, strong: bool) -> dict[str, Any]:
    """How one of several curves is drawn: colours, markers and lines differ together.

    Args:
        index: of the curve.
        name: for the legend.
        strong: whether it is drawn with more weight.

    Returns:
        Keywords of ``Axes.plot``.
    """
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": _LINES[(index + 2 * (index // len(COLORS))) % len(_LINES)],
        "linewidth": 2.4 if strong else 1.5,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6.5 if strong else 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "label": fill(name, LEGEND_WIDTH),
    }


def label_size(labels: Sequence[str], font_size: float = _FONT_SIZE) -> tuple[float, float]:
    """Room that the largest of some labels takes, so that margins fit what stands in them.

    Args:
        labels: texts, perhaps of several lines.
        font_size: in points.

    Returns:
        Width and height in inches; 0 without labels.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=font_size)
    lines = [label.split("\n") for label in labels]
    widths = [TextPath((0, 0), line, prop=font).get_extents().width for text in lines for line in text if line.strip()]
    return max(widths, default=0.0) / 72, max(map(len, lines), default=0) * 1.25 * font_size / 72


def _wrapped(title: str, width: float) -> str:
    return fill(title, max(20, int(width * 72 / (0.62 * _TITLE_SIZE))), break_on_hyphens=False)


def title_height(title: str, width: float) -> float:
    """Inches to leave above the axes for a title.

    Args:
        title: text.
        width: of the figure in inches.

    Returns:
        Height with its margins.
    """
    return 0.32 + (_wrapped(title, width).count("\n") + 1) * 1.3 * _TITLE_SIZE / 72


def set_title(figure: "Figure", title: str) -> None:
    """Write the title at the upper left of the figure, wrapped to its width.

    Args:
        figure: of any size.
        title: text.
    """
    width, height = figure.get_size_inches()
    figure.text(
        0.12 / width,
        1 - 0.14 / height,
        _wrapped(title, width),
        fontsize=_TITLE_SIZE,
        fontweight="bold",
        va="top",
        linespacing=1.3,
    )


def add_axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place given in inches.

    Args:
        figure: to put them on.
        left: from the left edge.
        bottom: from the lower edge.
        width: of the axes.
        height: of the axes.

    Returns:
        The axes.
    """
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))
