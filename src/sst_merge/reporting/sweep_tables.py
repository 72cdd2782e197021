"""Tables of strength sweeps: safety tax, what a method saves of it, and the front, with intervals."""

from collections.abc import Mapping

from ..measures.resampling import Measured
from ..measures.safety_tax import composite
from ..measures.sweep_intervals import SweepEstimates
from .pages import PageTable
from .tables import rate_with_interval

__all__ = ["drift_table", "measured_text", "sweep_table"]


def measured_text(figure: Measured | None, *, digits: int = 3) -> str:
    """A figure with its interval, as in ``0.031 [-0.012, ∞]``.

    Args:
        figure: None prints a dash, as does a figure that is not defined.
        digits: after the decimal point.

    Returns:
        Text; an end that lies at infinity says so, and where the figure is undefined for a share of the draws, that
        share follows.
    """
    if figure is None or figure.value is None:
        return rate_with_interval(None)
    if figure.low is None and figure.high is None:
        return rate_with_interval(figure.value, digits=digits)
    low = "−∞" if figure.low is None else f"{figure.low:.{digits}f}"
    high = "∞" if figure.high is None else f"{figure.high:.{digits}f}"
    return f"{figure.value:.{digits}f} [{low}, {high}]"


def sweep_table(
    estimates: Mapping[str, SweepEstimates],
    *,
    against: str | None = None,
    threshold: float = 0.9,
    pareto_shares: Mapping[str, float] | None = None,
) -> PageTable:
    """What every method's sweep says.

    Args:
        estimates: method → estimates.
        against: method that tax reductions compare with, for the heading.
        threshold: safety to reach, for the caption.
        pareto_shares: method → share of its points on the common front, where known.

    Returns:
        One row a method. The composite is MedOmni-45° style, with its angle, at the chosen strength.
    """
    columns = ["Method", "Strength", "Chosen again", "Safety", "Utility", "Safety tax"]
    columns += [] if against is None else [f"Tax reduction vs {against}"]
    columns += ["Composite (angle)", "Hypervolume"]
    columns += [] if pareto_shares is None else ["Pareto share"]
    rows = []
    for name, found in estimates.items():
        row: list[object] = [name, found.strength, f"{100 * found.agreement:.0f} %"]
        row += [measured_text(figure) for figure in (found.safety, found.utility, found.tax)]
        row += [] if against is None else [measured_text(found.tax_reduction)]
        row += [_composite(found), measured_text(found.hypervolume)]
        row += [] if pareto_shares is None else [pareto_shares[name]]
        rows.append(row)
    return PageTable(
        caption=f"Sweeps: the smallest strength with safety ≥ {threshold:g}, bootstrap intervals over prompts that "
        "choose the strength again",
        columns=columns,
        rows=rows,
    )


def drift_table(drifts: Mapping[str, tuple[Measured, Measured]], *, plain: str) -> PageTable:
    """Alignment drift of every method, and what it saves of plain merging's.

    Args:
        drifts: method → (drift, drift reduction).
        plain: method that reductions compare with.

    Returns:
        One row a method; no reduction where plain merging drifts by less than 10 points.
    """
    return PageTable(
        caption="Alignment drift: safety of the aligned base less safety after merging, bootstrap intervals",
        columns=("Method", "Drift", f"Drift reduction vs {plain}"),
        rows=[(name, measured_text(drift), measured_text(saved)) for name, (drift, saved) in drifts.items()],
    )


def _composite(found: SweepEstimates) -> str | None:
    if found.safety.value is None or found.utility.value is None:
        return None
    figures = composite(max(0.0, found.safety.value), max(0.0, found.utility.value))
    return f"{figures.value:.3f} ({figures.angle:.0f}°)"
