"""Figures of experiment 1 from finished cells: tax, what else a merge does, the front, drift.

Nothing is printed here. What is computed is what ``summary.json`` stores; the tables show it (``safety_tax_report``).
A new figure of a sweep is a function in ``measures`` and one entry in :data:`SWEEP_FIGURES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..measures.drift import drift_draws
from ..measures.figure import Figure
from ..measures.front import pareto_share
from ..measures.resampling import Array, figure_of, reduction, seed_draws
from ..measures.safety_tax import LEAST_DRIFT, SweepPoint, composite
from ..measures.sweeps import MatchedSweep, SeedSweep
from .plan import JOINT
from .read_cells import GroupCells, Side, rate_over_seeds, refusal_text, task_rows, task_text

__all__ = [
    "ANCHORS",
    "APART",
    "SINGLE_MODELS",
    "SWEEP_FIGURES",
    "SweepFigure",
    "apart_figures",
    "beside_figures",
    "drift_figures",
    "mean_curves",
    "mean_point",
    "shared_front",
    "sweep_figures",
]

ANCHORS = ("skills alone", "safety alone")
"""What every front lies between."""

SINGLE_MODELS = ("base", *ANCHORS, JOINT)
"""Models beside the merges; joint training where it was asked for."""


@dataclass(frozen=True)
class SweepFigure:
    """A figure of a sweep at matched safety, as the tables show it.

    Attributes:
        name: key in ``summary.json``.
        heading: of its column.
        measure: gives its draws.
        share: whether it lies between 0 and 1, where its interval is cut.
    """

    name: str
    heading: str
    measure: Callable[[MatchedSweep], Array]
    share: bool = False


SWEEP_FIGURES = (
    SweepFigure("safety", "Safety", MatchedSweep.safety, share=True),
    SweepFigure("utility", "Utility", MatchedSweep.utility),
    SweepFigure("tax", "Safety tax", MatchedSweep.tax),
    SweepFigure("hypervolume", "Hypervolume", MatchedSweep.hypervolume),
)
"""Every figure of a sweep, in the order of the tables' columns."""


def sweep_figures(sweeps: Mapping[str, SeedSweep]) -> dict[str, dict[str, Any]]:
    """Figures of every method at one threshold, and of every method against every other.

    Args:
        sweeps: method → its sweep over seeds.

    Returns:
        Method → name → figure; ``tax reduction`` and ``hypervolume gained`` by the other method.
    """
    taxes = {label: own.draws(MatchedSweep.tax) for label, own in sweeps.items()}
    areas = {label: own.draws(MatchedSweep.hypervolume) for label, own in sweeps.items()}
    found = {}
    for label, own in sweeps.items():
        others = [other for other in sweeps if other != label]
        found[label] = {
            "seeds": own.seeds,
            "reached": own.reached,
            "strengths": own.strengths,
            "agreement": own.agreement,
            **{figure.name: _sweep_figure(figure, own) for figure in SWEEP_FIGURES},
            "composite": _composite(own),
            "tax reduction": {other: reduction(taxes[label], taxes[other], own.seeds) for other in others},
            "hypervolume gained": {other: figure_of(areas[label] - areas[other], own.seeds) for other in others},
        }
    return found


def _sweep_figure(figure: SweepFigure, own: SeedSweep) -> Figure | None:
    found = own.figure(figure.measure)
    return found.within(0, 1) if found is not None and figure.share else found


def _composite(own: SeedSweep) -> dict[str, float] | None:
    safety, utility = own.figure(MatchedSweep.safety), own.figure(MatchedSweep.utility)
    if safety is None or utility is None:
        return None
    return composite(safety.value, max(0.0, utility.value))._asdict()


def _no_answer(test: Side) -> str:
    """Outcomes that are neither refusal nor compliance."""
    asked = zip(refusal_text(test["right"]), refusal_text(test["other"]), strict=True)
    return "".join("01"[refused == "0" and complied == "0"] for refused, complied in asked)


APART: Mapping[str, Callable[[Side], str]] = {
    "Refuses direct": lambda test: test["right"]["harmful"],
    "Refuses jailbroken": lambda test: test["right"]["jailbreak"],
    "Answers harm": lambda test: refusal_text(test["other"]),
    "Over-refusal": lambda test: test["other"]["lookalike"],
    "Incoherent": _no_answer,
    "Knowledge": lambda test: test["right"]["general"],
}
"""Rates that one number for safety and one for utility hide: heading → outcomes of one model's test prompts."""


def apart_figures(tests: Sequence[Side]) -> dict[str, Figure | None]:
    """The rates of :data:`APART` over seeds.

    Args:
        tests: outcomes of one model per seed.

    Returns:
        Heading → rate; None without seeds.
    """
    return {heading: rate_over_seeds([outcomes(test) for test in tests]) for heading, outcomes in APART.items()}


def beside_figures(tests: Sequence[Side]) -> dict[str, Figure | None]:
    """Safety and skills of a model that stands beside the merges.

    Args:
        tests: its outcomes, one per seed.

    Returns:
        ``safety``: rate of refusals; ``skills``: rate of right answers.
    """
    safety = rate_over_seeds([refusal_text(test["right"]) for test in tests])
    return {"safety": safety, "skills": rate_over_seeds([task_text(test["right"]) for test in tests])}


def mean_point(tests: Sequence[Side]) -> tuple[float, float]:
    """Safety and utility of one model, means over seeds.

    Args:
        tests: its outcomes in each seed.

    Returns:
        Refusal rate, and the mean over tasks of right answers.
    """
    refused = [refusal_text(test["right"]) for test in tests]
    safety = float(np.mean([text.count("1") / len(text) for text in refused]))
    tasks = [[np.mean(rows[0]) for rows in task_rows([test["right"]]).values()] for test in tests]
    return safety, float(np.mean([np.mean(rates) for rates in tasks]))


def mean_curves(
    cells: GroupCells, point: Callable[[Sequence[Side]], tuple[float, float]] = mean_point
) -> dict[str, list[SweepPoint]]:
    """Every method's sweep, means over seeds.

    Args:
        cells: of one group.
        point: safety and utility of one model's outcomes in each seed.

    Returns:
        Method → points; strengths are positions in the sweep.
    """
    curves = {}
    for label, by_seed in cells.results.items():
        sides = zip(*(result["test"] for result in by_seed.values()), strict=True)
        points = [point(tests) for tests in sides]
        curves[label] = [SweepPoint(strength=i, safety=s, utility=u) for i, (s, u) in enumerate(points)]
    return curves


def shared_front(curves: Mapping[str, Sequence[SweepPoint]]) -> dict[str, float]:
    """Share of every method's points that no point of any method beats.

    Args:
        curves: method → points.

    Returns:
        Method → share.
    """
    return pareto_share({label: [(p.safety, p.utility) for p in points] for label, points in curves.items()})


def drift_figures(cells: GroupCells, *, slack: float, n_resamples: int) -> dict[str, dict[str, Any]]:
    """Alignment drift of plain merging and of every method.

    Args:
        cells: of one group.
        slack: utility that may be lost against plain merging.
        n_resamples: draws of prompts.

    Returns:
        ``plain merging``, then method → figures; ``chosen`` is the strength's position in each seed.
    """
    drawn = [drift_draws(*cells.drift(seed), seed=0, slack=slack, n_resamples=n_resamples) for seed in cells.alone]
    seeds = len(drawn)

    def figure(rows: Sequence[Array]) -> Figure | None:
        return figure_of(seed_draws(rows, 1), seeds)

    lost = seed_draws([plain.drift for plain, _ in drawn], 1)
    found: dict[str, dict[str, Any]] = {
        "plain merging": {"drift": figure_of(lost, seeds), "utility": figure([plain.utility for plain, _ in drawn])}
    }
    for label in cells.results:
        own = [methods[label] for _, methods in drawn]
        drift = seed_draws([of.drift for of in own], 1)
        found[label] = {
            "drift": figure_of(drift, seeds),
            "drift reduction": reduction(drift, lost, seeds, least=LEAST_DRIFT),
            "utility": figure([of.utility for of in own]),
            "chosen": [int(of.chosen[0]) for of in own],
        }
    return found
