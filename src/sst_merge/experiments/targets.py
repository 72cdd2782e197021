"""What was aimed at beside what was measured, so that nobody has to search the tables for a missed target."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..measures.figure import Figure
from ..reporting import PageTable, figure_text
from .method_sweeps import PLAIN
from .safety_tax_report import OURS

__all__ = ["targets_table"]

_PLAIN = (PLAIN, f"{PLAIN}, interpolated")
_DARE = "DARE linear"
Row = list[object]
Figures = Mapping[str, Any]


def targets_table(figures: Mapping[str, Figures]) -> PageTable:
    """Every target of the three experiments, for every variant of SST-Merge that is judged.

    Args:
        figures: experiment → the figures of its report; experiments may be absent.

    Returns:
        Target, where, method, what was measured, and whether that reaches the target.
    """
    rows: list[Row] = []
    for group, found in figures.get("exp1", {}).items():
        rows += _drift(group, found) if group.startswith("drift") else _tax(group, found.get("0.9", {}))
    rows += _retention(figures.get("exp2", {}))
    rows += _cost(figures.get("exp3", {}).get("cost", {}))
    return PageTable(
        caption="Taxes are those at safety ≥ 0.9; 'point only' where the figure reaches the target and the lower end "
        "of its interval does not; times are those of a second strength, where SST-Merge has its Fishers and "
        "eigenvectors already",
        columns=["Target", "Where", "Method", "Measured", "Reached"],
        rows=rows,
    )


def _tax(group: str, sweeps: Figures) -> Iterator[Row]:
    """Tax against tuned Task Arithmetic, tax against every other method, hypervolume against the best other one."""
    safe = {label: of for label, of in sweeps.items() if not _is_ours(label) and of["tax"] is not None}
    tuned = min((label for label in _PLAIN if label in safe), key=lambda name: safe[name]["tax"].value, default=None)
    for ours in (label for label in OURS if label in sweeps):
        own = sweeps[ours]
        if tuned is not None:
            saved = own["tax reduction"][tuned]
            yield ["tax ≥ 70 % below tuned Task Arithmetic's", group, ours, _or_nothing(saved), _at_least(saved, 0.7)]
        compared = {label: own["tax reduction"][label] for label in safe}
        there = {label: saved for label, saved in compared.items() if saved is not None}
        if there:
            worst = min(there, key=lambda name: there[name].value)
            halved = sum(saved.value >= 0.5 for saved in there.values())
            said = f"{figure_text(there[worst])} against {worst}; ≥ 50 % against {halved} of {len(there)} that get safe"
            free = len(compared) - len(there)
            said += f", {free} more pay no tax" if free else ""
            reached = _at_least(there[worst], 0.5) if not free else "no"
            yield ["tax ≥ 50 % below every other method's", group, ours, said, reached]
        rivals = {label: of["hypervolume"].value for label, of in sweeps.items() if not _is_ours(label)}
        if rivals:
            best = max(rivals, key=lambda name: rivals[name])
            gained = own["hypervolume gained"][best]
            said = f"{figure_text(own['hypervolume'])}, {figure_text(gained)} against {best}"
            yield ["largest hypervolume, alone", group, ours, said, _at_least(gained, 0.0)]


def _drift(group: str, found: Figures) -> Iterator[Row]:
    for label in (label for label in found if label in OURS):
        saved = found[label]["drift reduction"]
        yield ["drift ≥ 70 % below plain merging's", group, label, _or_nothing(saved), _at_least(saved, 0.7)]


def _retention(found: Figures) -> Iterator[Row]:
    sizes = [int(key.split(", ")[1].split()[0]) for key in found if key.startswith("experts, ")]
    if not sizes:
        return
    where = f"{max(sizes)} experts"
    for stage in ("skills alone", "with safety"):
        by_label = found.get(f"experts, {where}, {stage}", {})
        rivals = {label: of["retention"].value for label, of in by_label.items() if not _is_ours(label)}
        for label in (label for label in by_label if label in OURS):
            own: Figure = by_label[label]["retention"]
            yield ["retention ≥ 90 %", f"{where}, {stage}", label, figure_text(own), _at_least(own, 0.9)]
            if rivals:
                best = max(rivals, key=lambda name: rivals[name])
                gained: Figure | None = by_label[label]["retention gained"][best]
                said = f"{figure_text(own)}, {figure_text(gained)} against {best}"
                yield ["retention above every baseline's", f"{where}, {stage}", label, said, _at_least(gained, 0.0)]


def _cost(cost: Figures) -> Iterator[Row]:
    """Both methods' second strength: SST-Merge's reuses the Fishers and the eigenvectors that follow from them."""
    if _DARE not in cost:
        return
    dare: Figure = cost[_DARE]["more_seconds"]
    for label in (label for label in cost if label in OURS):
        own: Figure = cost[label]["more_seconds"]
        said = f"{own.value:.3f} s against {dare.value:.3f} s, {own.value / dare.value:.2f} ×"
        reached = "yes" if own.value <= 2 * dare.value else "no"
        yield ["merge without the Fishers ≤ 2 × DARE's time", "one skill", label, said, reached]


def _is_ours(label: str) -> bool:
    """Variants outside :data:`OURS` have no row of their own and are no rivals either."""
    return label.startswith("SST-Merge")


def _or_nothing(saved: Figure | None) -> str:
    return "nothing to reduce there" if saved is None else figure_text(saved)


def _at_least(figure: Figure | None, aim: float) -> str:
    if figure is None or figure.value < aim:
        return "–" if figure is None else "no"
    return "yes" if figure.low >= aim else "point only"
