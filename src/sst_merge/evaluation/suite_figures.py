"""What one model scored on one suite: every column as a figure, of the whole suite and of its groups."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..measures.figure import Figure
from ..measures.intervals import rate, seed_interval
from .records import Record
from .score_table import ScoreTable

__all__ = ["SuiteFigure", "column_figure", "suite_figures"]


@dataclass(frozen=True, kw_only=True)
class SuiteFigure:
    """One score of one model on one suite, or on one group of its samples.

    Attributes:
        model: name.
        suite: name.
        score: column of the records.
        tag: tag that the suite is broken down by; None for the whole suite.
        group: value of that tag.
        figure: mean score of the samples that have it; None where none was decided.
        undecided: samples without it.
    """

    model: str
    suite: str
    score: str
    tag: str | None = None
    group: str | None = None
    figure: Figure | None
    undecided: int

    @property
    def answered(self) -> int:
        """All samples, decided or not."""
        return self.undecided + (0 if self.figure is None else self.figure.n)


def column_figure(records: Iterable[Record], score: str, level: float = 0.95) -> Figure | None:
    """Mean of a column: a rate with Wilson's interval where every score is 0 or 1, else with Student's.

    Args:
        records: of one model; those without the column do not count.
        score: column.
        level: coverage of the interval.

    Returns:
        The figure; None where no record has the column. The interval of a single graded score has no ends.
    """
    values = [float(record.scores[score]) for record in records if score in record.scores]
    if not values:
        return None
    if all(value in {0.0, 1.0} for value in values):
        return rate(int(sum(values)), len(values), level)
    if len(values) == 1:
        return Figure(values[0], -math.inf, math.inf, 1)
    found = seed_interval(values, level)
    return found.within(0, 1) if min(values) >= 0 and max(values) <= 1 else found


def suite_figures(
    table: ScoreTable, model: str, suite: str, scores: Sequence[str], level: float = 0.95
) -> list[SuiteFigure]:
    """Figures of one model on one suite.

    Args:
        table: all records.
        model: name.
        suite: name.
        scores: columns.
        level: coverage of the intervals.

    Returns:
        Every column of the whole suite, then by the value of the suite's breakdown tag, values sorted; nothing where
        the model has no records of the suite.
    """
    records = table.records(model, suite)
    if not records:
        return []
    tag = table.suites[suite].breakdown
    groups: dict[str, list[Record]] = {}
    for record in records:
        if tag is not None and tag in record.tags:
            groups.setdefault(record.tags[tag], []).append(record)

    def figure(found: Sequence[Record], score: str, group: str | None) -> SuiteFigure:
        return SuiteFigure(
            model=model,
            suite=suite,
            score=score,
            tag=None if group is None else tag,
            group=group,
            figure=column_figure(found, score, level),
            undecided=sum(score not in record.scores for record in found),
        )

    whole = [figure(records, score, None) for score in scores]
    return whole + [figure(groups[group], score, group) for score in scores for group in sorted(groups)]
