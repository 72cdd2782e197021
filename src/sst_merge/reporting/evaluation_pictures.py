"""Pictures of an evaluation summary: rates by suite, and heat maps of what is broken down."""

import math
import re
from pathlib import Path
from typing import NamedTuple

from ..evaluation.summary import Rate, Summary
from ..measures.figure import Figure
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
    """Draw whatever a summary has: per suite the rates of every model, per breakdown a heat map of each score.

    Args:
        summary: of an evaluation.
        folder: to write into.

    Returns:
        The pictures, suite by suite. Scores that are no shares, such as perplexity, stay in the tables.
    """
    pictures = []
    for suite in summary.suites:
        scores = [score for score in main_scores(summary, suite) if _is_share(summary, suite, score)]
        # Refusal, harm and incoherence belong together: where one of them was not judged, the picture says so.
        judged = any(score in _JUDGED for score in scores)
        shown = main_scores(summary, suite) if judged else scores
        if scores:
            rates = {m: {s: _figure(summary.rate(m, suite, s)) for s in shown} for m in summary.models}
            n = max(r.n + r.undecided for r in summary.rates if r.suite == suite and r.group is None)
            caption = f"{suite}: {', '.join(shown)}, n = {n}, {100 * summary.level:g} % intervals"
            pictures.append(Picture(*rate_plot(rates, path_stem=folder / _name(suite), title=caption), caption))
        groups = summary.groups(suite)
        tag = next((r.tag for r in summary.rates if r.suite == suite and r.tag is not None), None)
        for score in scores if groups else ():
            caption = f"{suite}: {score} by {tag}"
            values = [[_value(summary.rate(m, suite, score, g)) for m in summary.models] for g in groups]
            stem = folder / _name(f"{suite}_{score}_by_{tag}")
            tiles = HeatMap(f"by {tag}", groups, summary.models, values, color_label=score)
            pictures.append(Picture(*heat_maps([tiles], path_stem=stem, title=caption), caption))
    return pictures


def _is_share(summary: Summary, suite: str, score: str) -> bool:
    """Whether there is something to draw on an axis from 0 to 1."""
    found = [r for r in summary.rates if (r.suite, r.score, r.group) == (suite, score, None) and r.value is not None]
    return bool(found) and all(
        r.value is not None and 0 <= r.value <= 1 and (r.ends is None or (r.ends[0] >= 0 and r.ends[1] <= 1))
        for r in found
    )


def _figure(rate: Rate | None) -> Figure | None:
    if rate is None or rate.value is None:
        return None
    low, high = (-math.inf, math.inf) if rate.ends is None else rate.ends
    return Figure(rate.value, low, high, rate.n)


def _value(rate: Rate | None) -> float | None:
    return None if rate is None else rate.value


def _name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
