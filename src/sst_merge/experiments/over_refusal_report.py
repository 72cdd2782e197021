"""Safety against over-refusal: how many harmless look-alikes a method refuses at equal safety.

Refusals of both at every strength are a curve as of any detector (ROC). Methods are compared where its hull reaches the
same share of the harmful test prompts, whatever strength was chosen: more refusals by strength alone are a step along
the curve, not above it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..measures.figure import Figure
from ..measures.resampling import Array, figure_of
from ..measures.roc import RocHull
from ..measures.sweeps import MatchedSweep, SeedSweep, seed_sweeps
from ..reporting import PageTable, figure_text, safety_utility_plot
from .plan import JOINT
from .read_cells import GroupCells, Side, refusal_text
from .report import Report, picture_stem
from .tax_figures import ANCHORS, mean_curves

__all__ = ["add_over_refusal", "over_refusal_figures"]

_BESIDE = (*ANCHORS, JOINT)


def over_refusal_figures(
    sweeps: Mapping[str, SeedSweep], beside: str, rates: Sequence[float]
) -> dict[str, dict[str, dict[str, Figure | None]]]:
    """Over-refusal at equal safety, and how much more one of the methods has.

    Args:
        sweeps: method → its sweep, with answered look-alikes as utility.
        beside: the method that others are compared with.
        rates: of refusals of harmful prompts.

    Returns:
        Rate → method → ``over-refusal``, and ``beside less this`` where it is another method.
    """
    found: dict[str, dict[str, dict[str, Figure | None]]] = {}
    for rate in rates:
        draws = {label: own.draws(partial(_over_refusal, rate=rate)) for label, own in sweeps.items()}
        found[f"{rate:g}"] = {
            label: {"over-refusal": _share(figure_of(draws[label], own.seeds))}
            | ({} if label == beside else {"beside less this": figure_of(draws[beside] - draws[label], own.seeds)})
            for label, own in sweeps.items()
        }
    return found


def _share(figure: Figure | None) -> Figure | None:
    """With an interval that few seeds do not carry beyond 0 and 1."""
    return figure.within(0, 1) if figure is not None else None


def _over_refusal(sweep: MatchedSweep, rate: float) -> Array:
    return RocHull.of(sweep.curve.safety, 1.0 - sweep.curve.utility).over_refusal(rate)


def add_over_refusal(
    report: Report,
    name: str,
    cells: GroupCells,
    beside: str,
    shown: Sequence[str],
    folder: Path,
    *,
    rates: Sequence[float],
    **draws: int,
) -> None:
    """A table, a picture and figures of one group.

    Args:
        report: to add them to.
        name: of the group.
        cells: of the group.
        beside: the method that others are compared with.
        shown: methods in the picture.
        folder: for the picture.
        rates: of refusals of harmful prompts.
        draws: ``seed`` and ``n_resamples`` of the bootstrap.
    """
    # Hulls are those of whole sweeps, whatever strength is chosen.
    (sweeps,) = seed_sweeps(cells.refusal_sweeps(), rates[:1], **draws).values()
    figures = over_refusal_figures(sweeps, beside, rates)
    report.figures.setdefault(name, {})["over-refusal"] = figures
    columns = [(f"At {rate}", of, "over-refusal") for rate, of in figures.items()]
    columns += [(f"{beside} less this, at {rate}", of, "beside less this") for rate, of in figures.items()]
    report.tables.append(
        PageTable(
            caption=f"{name}: over-refusal at equal safety: harmless look-alikes refused where the hull of a method's "
            f"refusals against over-refusals (ROC) refuses {', '.join(figures)} of the harmful test prompts; paired",
            columns=["Method", *(heading for heading, _, _ in columns)],
            rows=[[label, *(figure_text(of[label].get(key)) for _, of, key in columns)] for label in sweeps],
        )
    )
    curves = mean_curves(cells, _point)
    models = {who: [of[who]["test"] for of in cells.alone.values() if who in of] for who in _BESIDE}
    report.pictures += safety_utility_plot(
        {label: curves[label] for label in shown},
        anchors={who: _point(tests) for who, tests in models.items() if tests},
        path_stem=picture_stem(folder, "refusals", name),
        title=f"Safety and harmless look-alikes, {name}: mean over seeds",
        highlight=beside,
        utility_label="Harmless look-alikes answered",
    )


def _point(tests: Sequence[Side]) -> tuple[float, float]:
    """Harmful prompts refused and look-alikes answered, means over seeds."""
    rates = [[text.count("1") / len(text) for text in _texts(test)] for test in tests]
    refused, refused_harmless = np.mean(rates, axis=0)
    return float(refused), 1.0 - float(refused_harmless)


def _texts(test: Side) -> tuple[str, str]:
    return refusal_text(test["right"]), test["other"]["lookalike"]
