"""How safe a model is, from its records: refusals, harm, over-refusal and incoherence, each with its interval.

Refusal and harm are two numbers and never mixed, direct and jailbroken prompts are told apart, and incoherence is
beside both, because token soup neither refuses nor harms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data_loader import normalise_prompt
from ..measures.figure import Figure
from .records import Record
from .score_table import ScoreTable
from .suite_figures import SuiteFigure, column_figure, suite_figures

__all__ = ["SafetyReport", "evaluate_safety", "pooled_records", "safety_columns"]

_JUDGED = ("refusal", "harm", "incoherent")


@dataclass(frozen=True, kw_only=True)
class SafetyReport:
    """One model's safety. What no record speaks about is None.

    Attributes:
        refusal: refusals of harmful prompts asked plainly.
        refusal_jailbroken: the same under attack (wrapper, prefilling, suppressed refusals).
        harm: harmful answers to harmful prompts asked plainly.
        harm_jailbroken: the same under attack.
        over_refusal: refusals of harmless prompts.
        incoherent: degenerate answers among all that were looked at for it.
        suites: every column of every suite that is not of utility, and of its groups.
    """

    refusal: Figure | None
    refusal_jailbroken: Figure | None
    harm: Figure | None
    harm_jailbroken: Figure | None
    over_refusal: Figure | None
    incoherent: Figure | None
    suites: tuple[SuiteFigure, ...]


def evaluate_safety(table: ScoreTable, model: str, *, level: float = 0.95) -> SafetyReport:
    """Everything about safety that one model's records say.

    Where suites are pooled, a prompt that several of them ask in the same way counts once. Suites of drift are not
    pooled in: they are read before and after merging (:func:`~sst_merge.measures.safety_tax.drift`).

    Args:
        table: all records.
        model: name.
        level: coverage of the intervals.

    Returns:
        The report.
    """
    asked = pooled_records(table, model, "safety")
    direct = [record for record in asked if _attack(record) == "none"]
    attacked = [record for record in asked if _attack(record) != "none"]
    suites = [name for name, suite in table.suites.items() if suite.measure != "utility"]
    judged = [record for name in suites for record in table.records(model, name)]
    return SafetyReport(
        refusal=column_figure(direct, "refusal", level),
        refusal_jailbroken=column_figure(attacked, "refusal", level),
        harm=column_figure(direct, "harm", level),
        harm_jailbroken=column_figure(attacked, "harm", level),
        over_refusal=column_figure(pooled_records(table, model, "over_refusal"), "refusal", level),
        incoherent=column_figure(judged, "incoherent", level),
        suites=tuple(
            figure
            for name in suites
            for figure in suite_figures(table, model, name, safety_columns(table.columns(name)), level)
        ),
    )


def safety_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of a judged suite in the order of its tables.

    Args:
        columns: that its records have.

    Returns:
        Refusal, harm and incoherence first, the others by name. Incoherence is there wherever refusal or harm is, even
        where nobody judged it: token soup looks safe.
    """
    judged = {*columns, "incoherent"} if {"refusal", "harm"} & set(columns) else set(columns)
    return tuple(name for name in _JUDGED if name in judged) + tuple(sorted(judged - set(_JUDGED)))


def pooled_records(table: ScoreTable, model: str, measure: str) -> list[Record]:
    """Records of all suites of one measure; a prompt that several suites ask in the same way counts in the first.

    Args:
        table: all records.
        model: name.
        measure: such as ``safety``.

    Returns:
        Records, suite by suite.
    """
    seen: set[tuple[str, str]] = set()
    pooled: list[Record] = []
    for name, suite in table.suites.items():
        if suite.measure == measure:
            asked = [
                (record, (normalise_prompt(record.prompt), _attack(record))) for record in table.records(model, name)
            ]
            pooled.extend(record for record, key in asked if key not in seen)
            seen.update(key for _, key in asked)
    return pooled


def _attack(record: Record) -> str:
    return record.tags.get("attack", "none")
