"""Pictures of an evaluation summary: rates by suite, and heat maps of what is broken down."""

from pathlib import Path
from typing import NamedTuple

from ..evaluation.summary import Summary
from ..files import file_name
from .evaluation_tables import main_scores
from .heat_map import HeatMap, heat_maps
from .rate_plot import rate_plot

__all__ = ["Picture", "draw_summary"]

_JUDGED = ("refusal", "harm", "incoherent")


class Picture(NamedTuple):
    """A picture of a report.

    Attributes:
        png: path of the PNG.
        svg: path of the SVG.
        caption: what it shows.
    """

    png: Path
    svg: Path
    caption: str


def draw_summary(summary: Summary, folder: Path) -> list[Picture]:
    """Draw whatever a summary has: per suite the rates of every model, per breakdown a heat map of each score."""
    pictures = []
    for suite in summary.suites:
        scores = [score for score in main_scores(summary, suite) if _is_share(summary, suite, score)]
        # Refusal, harm and incoherence belong together: where one of them was not judged, the picture says so.
        judged = any(score in _JUDGED for score in scores)
        shown = main_scores(summary, suite) if judged else scores
        if scores:
            rates = {m: {s: summary.figure(m, suite, s) for s in shown} for m in summary.models}
            n = max(summary.answered(model, suite) or 0 for model in summary.models)
            caption = f"{suite}: {', '.join(shown)}, n = {n}, {100 * summary.level:g} % intervals"
            pictures.append(Picture(*rate_plot(rates, path_stem=folder / file_name(suite), title=caption), caption))
        groups = summary.groups(suite)
        tag = next((f.tag for f in summary.figures if f.suite == suite and f.tag is not None), None)
        for score in scores if groups else ():
            caption = f"{suite}: {score} by {tag}"
            found = [[summary.figure(m, suite, score, g) for m in summary.models] for g in groups]
            values = [[None if figure is None else figure.value for figure in row] for row in found]
            # No file name of a suite has a plus sign: it is told from every other picture.
            stem = folder / "+".join(map(file_name, (suite, score, "by", str(tag))))
            tiles = HeatMap(f"by {tag}", groups, summary.models, values, color_label=score)
            pictures.append(Picture(*heat_maps([tiles], path_stem=stem, title=caption), caption))
    return pictures


def _is_share(summary: Summary, suite: str, score: str) -> bool:
    """Whether there is something to draw on an axis from 0 to 1."""
    figures = [summary.figure(model, suite, score) for model in summary.models]
    found = [figure for figure in figures if figure is not None]
    return bool(found) and all(
        0 <= figure.value <= 1 and (figure.n == 1 or (figure.low >= 0 and figure.high <= 1)) for figure in found
    )
