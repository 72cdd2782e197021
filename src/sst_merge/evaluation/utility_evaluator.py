"""What a model can do, from its records: accuracy, perplexity, and what a merge retains of its skills."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..measures.figure import Figure
from ..measures.mean_figure import mean_figure
from ..measures.resampling import figure_of
from ..measures.retention import retention_draws
from .records import Record
from .score_table import ScoreTable
from .suite_figures import SuiteFigure, suite_figures

__all__ = ["Perplexity", "UtilityReport", "best_adapters", "evaluate_utility", "perplexity", "skill_suites"]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a model predicts a text; lower is better.

    Attributes:
        word: perplexity a word.
        byte: perplexity a byte.
        bits_per_byte: log₂ of the latter; unlike the other two it can be averaged and subtracted.
    """

    word: float
    byte: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class UtilityReport:
    """One model's skills. What no record speaks about is None.

    Attributes:
        accuracy: mean over suites of the share of right answers, every suite counting the same.
        retention: of a merge: mean over suites of its share of right answers by that of the best of its skill adapters.
        perplexity: of held-out text.
        suites: every column of every utility suite, and of its groups.
    """

    accuracy: Figure | None
    retention: Figure | None
    perplexity: Perplexity | None
    suites: tuple[SuiteFigure, ...]


def evaluate_utility(
    table: ScoreTable, model: str, *, skills: Sequence[str] = (), level: float = 0.95
) -> UtilityReport:
    """Everything about skills that one model's records say.

    Args:
        table: all records.
        model: name.
        skills: of a merge: all adapters with skills that it was made of.
        level: coverage of the intervals.

    Returns:
        The report.
    """
    names = [name for name, suite in table.suites.items() if suite.measure == "utility"]
    found = [figure for name in names for figure in suite_figures(table, model, name, table.columns(name), level)]
    rated = [
        figure.figure
        for figure in found
        if figure.group is None and figure.score == _score(table, figure.suite) and figure.figure is not None
    ]
    texts = [r for name in names for r in table.records(model, name) if "loglikelihood" in r.scores]
    return UtilityReport(
        accuracy=mean_figure(rated) if rated else None,
        retention=_retention(table, model, skills, level),
        perplexity=perplexity(texts) if texts else None,
        suites=tuple(found),
    )


def _score(table: ScoreTable, suite: str) -> str | None:
    """The column with the share of right answers, in suites that have one."""
    found = table.suites[suite]
    return found.score if found.measure == "utility" and found.rate else None


def skill_suites(table: ScoreTable, models: Sequence[str]) -> dict[str, list[list[float]]]:
    """Right answers of several models on the same samples of each suite that counts some.

    Args:
        table: all records.
        models: names.

    Returns:
        Suite → scores of each model; suites without a sample that all of them have are left out.
    """
    scores = {suite: score for suite in table.suites if (score := _score(table, suite)) is not None}
    paired = {suite: table.paired(models, suite, score)[0] for suite, score in scores.items()}
    return {suite: rows for suite, rows in paired.items() if rows[0]}


def best_adapters(table: ScoreTable, skills: Sequence[str]) -> dict[str, str]:
    """The adapter that stands for the skill of each suite: the best of some on the samples that all of them have.

    Args:
        table: all records.
        skills: names of adapters.

    Returns:
        Suite → adapter; of equally good ones the first.
    """
    if not skills:
        return {}
    return {
        suite: max(zip(skills, rows, strict=True), key=lambda pair: math.fsum(pair[1]))[0]
        for suite, rows in skill_suites(table, skills).items()
    }


def _retention(table: ScoreTable, merge: str, skills: Sequence[str], level: float) -> Figure | None:
    """None where there is nothing to compare with; a suite on which no adapter is ever right has nothing to retain."""
    merged, alone = {}, {}
    for suite, adapter in best_adapters(table, skills).items():
        rows = skill_suites(table, (merge, adapter)).get(suite)
        if rows is not None and any(rows[1]):
            merged[suite], alone[suite] = rows
    if not alone:
        return None
    n = sum(map(len, alone.values()))
    return figure_of(retention_draws({merge: merged}, alone)[merge], n, level)


def perplexity(records: Iterable[Record]) -> Perplexity:
    """Perplexity of all texts together: likelihoods, words and bytes add up before the quotient is taken.

    Args:
        records: of one model on suites that score whole texts, at least one.

    Returns:
        The three measures.

    Raises:
        DataError: no records, or one without its likelihood.
    """
    totals = {"loglikelihood": 0.0, "words": 0.0, "bytes": 0.0}
    count = 0
    for record in records:
        missing = totals.keys() - record.scores.keys()
        if missing:
            raise DataError(f"perplexity: record {record.id!r} has no {', '.join(sorted(missing))}")
        for column in totals:
            totals[column] += record.scores[column]
        count += 1
    if not count:
        raise DataError("perplexity: no records; evaluate the suite `perplexity` first")
    nats = -totals["loglikelihood"]
    return Perplexity(
        word=math.exp(nats / totals["words"]),
        byte=math.exp(nats / totals["bytes"]),
        bits_per_byte=nats / totals["bytes"] / math.log(2),
    )
