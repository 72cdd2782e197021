"""The look that all pictures share, and how they reach the disk."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "FAINT", "INK", "STYLE", "save_picture"]

# Okabe and Ito's colours, told apart with every common colour vision; their yellow is too faint on white.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#222222", "#6b6b6b"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": 9.5,
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
    "svg.fonttype": "path",
    "svg.hashsalt": "sst-merge",
}


def save_picture(figure: "Figure", path_stem: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG without clock or program name; same figure and matplotlib, same bytes.

    Args:
        figure: drawn inside ``rc_context(STYLE)``, which must still be in force.
        path_stem: path without suffix; missing folders are made.

    Returns:
        Paths of the PNG and the SVG.
    """
    png, svg = (path_stem.with_name(f"{path_stem.name}{suffix}") for suffix in (".png", ".svg"))
    png.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[Path, dict[str, Any]] = {png: {"Software": None}, svg: {"Date": None, "Creator": None}}
    for target, left_out in metadata.items():
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            figure.savefig(partial, format=target.suffix[1:], metadata=left_out)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return png, svg
