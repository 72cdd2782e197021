"""How every picture looks, and how it is written: print-ready, told apart without colour, the same bytes every time."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..files import atomic_file
from ..texts import bounded, visible

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
    "legend_text",
    "picture_text",
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
_LONGEST_TEXT = 240  # characters
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
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "sst-merge",
}


def write_picture(path_stem: Path, size: tuple[float, float], draw: Callable[["Figure"], None]) -> tuple[Path, Path]:
    """Draw a figure in this package's style and write it as PNG and SVG, aside first and renamed.

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


def picture_text(text: str) -> str:
    """Text of others as a picture can show it: what the font has no sign for is an escape, what is long is cut.

    Escaped are characters that XML does not allow as well: an SVG names its texts in comments. A line break stays, as
    the pictures' own labels have some.
    """
    drawn = "".join(
        letter if letter == "\n" or ord(letter) in _drawable() else letter.encode("unicode_escape").decode("ascii")
        for letter in bounded(visible(text, keep="\n"), _LONGEST_TEXT)
    )
    return bounded(drawn, _LONGEST_TEXT)


@cache
def _drawable() -> frozenset[int]:
    """Characters that the font has signs for."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def legend_text(name: str) -> str:
    """A name in a legend; matplotlib leaves out labels that begin with an underscore."""
    shown = fill(picture_text(name), LEGEND_WIDTH)
    return f" {shown}" if shown.startswith("_") else shown


def curve_look(index: int, name: str, *, strong: bool) -> dict[str, Any]:
    """Keywords of ``Axes.plot`` for one of several curves: colours, markers and lines differ together."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": _LINES[(index + 2 * (index // len(COLORS))) % len(_LINES)],
        "linewidth": 2.4 if strong else 1.5,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6.5 if strong else 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "label": legend_text(name),
    }


def label_size(labels: Sequence[str], font_size: float = _FONT_SIZE) -> tuple[float, float]:
    """Width and height in inches of the largest of some labels, so that margins fit; 0 without labels."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=font_size)
    lines = [picture_text(label).split("\n") for label in labels]
    with rc_context(_STYLE):
        shown = [line for text in lines for line in text if line.strip()]
        widths = [TextPath((0, 0), line, prop=font).get_extents().width for line in shown]
    return max(widths, default=0.0) / 72, max(map(len, lines), default=0) * 1.25 * font_size / 72


def _wrapped(title: str, width: float) -> str:
    return fill(picture_text(title), max(20, int(width * 72 / (0.62 * _TITLE_SIZE))), break_on_hyphens=False)


def title_height(title: str, width: float) -> float:
    """Inches to leave above the axes for a title, with its margins."""
    return 0.32 + (_wrapped(title, width).count("\n") + 1) * 1.3 * _TITLE_SIZE / 72


def set_title(figure: "Figure", title: str) -> None:
    """Write the title at the upper left of the figure, wrapped to its width."""
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
    """Axes at a place given in inches, from the lower left edge."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))
