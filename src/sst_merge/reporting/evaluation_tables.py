"""Tables of an evaluation summary; a model that was not measured on something has a dash there, never 0."""

from collections.abc import Sequence

from ..errors import DataError
from ..evaluation.summary import Rate, Summary
from ..suites.catalogue import SUITES
from .pages import PageTable
from .tables import rate_with_interval

__all__ = [
    "breakdown_table",
    "comparison_table",
    "judge_table",
    "main_scores",
    "overview_table",
    "rate_rows",
    "suite_table",
]

RATE_COLUMNS = ("model", "suite", "score", "tag", "group", "value", "low", "high", "k", "n", "undecided", "interval")


def main_scores(summary: Summary, suite: str) -> tuple[str, ...]:
    """The columns of a suite that an overview shows.

    Args:
        summary: that has the suite.
        suite: name.

    Returns:
        Refusal, harm, incoherence, and right or helpful answers beside them, as far as the suite has them, else the
        suite's own score, else all of its columns.
    """
    columns = summary.scores[suite]
    judged = {"refusal", "harm", "incoherent"}
    if judged & set(columns):
        return tuple(name for name in columns if name in {*judged, "correct", "helpful"})
    own = SUITES[suite].score if suite in SUITES else "correct"
    return (own,) if own in columns else columns


def overview_table(summary: Summary, suites: Sequence[str] | None = None) -> PageTable:
    """Every model on every suite.

    Args:
        summary: of an evaluation.
        suites: which ones; all by default.

    Returns:
        One row a model, one column a suite and score.
    """
    cells = [(s, score) for s in suites or summary.suites for score in main_scores(summary, s)]
    rows = [[model, *(_cell(summary.rate(model, s, score)) for s, score in cells)] for model in summary.models]
    return PageTable(
        caption=f"All suites: rate or mean score, {_percent(summary)} intervals",
        columns=("Model", *(s if score == "correct" else f"{s}: {score}" for s, score in cells)),
        rows=rows,
    )


def suite_table(summary: Summary, suite: str) -> PageTable:
    """One suite in full.

    Args:
        summary: of an evaluation.
        suite: name.

    Returns:
        One row a model, one column a score, and the number of samples answered.

    Raises:
        DataError: the summary has no such suite.
    """
    if suite not in summary.suites:
        raise DataError(f"no suite {suite!r} in the summary; it has {', '.join(summary.suites)}")
    scores = summary.scores[suite]
    rows = []
    for model in summary.models:
        rates = [summary.rate(model, suite, score) for score in scores]
        answered = max((rate.n + rate.undecided for rate in rates if rate is not None), default=None)
        rows.append([model, *(_cell(rate) for rate in rates), answered])
    return PageTable(caption=f"{suite}: {_percent(summary)} intervals", columns=("Model", *scores, "n"), rows=rows)


def breakdown_table(summary: Summary, suite: str, score: str) -> PageTable:
    """One score of a suite by category or subject.

    Args:
        summary: of an evaluation.
        suite: name.
        score: column.

    Returns:
        One row a group, one column a model, and the largest number of samples that a model answered in the group.

    Raises:
        DataError: the suite is not broken down.
    """
    groups = summary.groups(suite)
    if not groups:
        raise DataError(f"suite {suite!r} is not broken down in the summary; summarize with breakdown={{suite: tag}}")
    rows = []
    for group in groups:
        rates = [summary.rate(model, suite, score, group) for model in summary.models]
        rows.append([group, *map(_cell, rates), max((rate.n for rate in rates if rate is not None), default=0)])
    tag = next(rate.tag for rate in summary.rates if rate.suite == suite and rate.tag is not None)
    return PageTable(
        caption=f"{suite}: {score} by {tag}, {_percent(summary)} intervals",
        columns=(tag, *summary.models, "n"),
        rows=rows,
    )


def comparison_table(summary: Summary) -> PageTable:
    """Every model against the reference.

    Args:
        summary: of an evaluation with a reference.

    Returns:
        One row a model, suite and score.

    Raises:
        DataError: the summary has no reference.
    """
    if summary.reference is None:
        raise DataError("the summary compares with no reference; summarize with reference=MODEL")
    rows = [
        (
            found.model,
            found.suite,
            found.score,
            rate_with_interval(found.difference, (found.low, found.high), digits=3),
            None if found.p_value is None else _p_value(found.p_value),
            found.n,
            found.unpaired,
        )
        for found in summary.comparisons
    ]
    return PageTable(
        caption=f"Difference from {summary.reference} on the same samples: paired bootstrap, exact McNemar test",
        columns=("Model", "Suite", "Score", f"Difference [{_percent(summary)}]", "p", "n", "Unpaired"),
        rows=rows,
    )


def judge_table(summary: Summary) -> PageTable:
    """Who decided which column.

    Args:
        summary: of an evaluation.

    Returns:
        One row a suite and score that a judge decided.
    """
    rows = [
        (suite, score, "; ".join(names))
        for suite, columns in summary.judges.items()
        for score, names in columns.items()
    ]
    return PageTable(caption="Judges", columns=("Suite", "Score", "Judge"), rows=rows)


def rate_rows(summary: Summary) -> list[tuple[object, ...]]:
    """Every rate in full precision, for CSV and JSON.

    Args:
        summary: of an evaluation.

    Returns:
        One row a rate, headed by :data:`RATE_COLUMNS`.
    """
    return [tuple(getattr(rate, name) for name in RATE_COLUMNS) for rate in summary.rates]


def _cell(rate: Rate | None) -> str:
    return rate_with_interval(None) if rate is None else rate_with_interval(rate.value, rate.ends)


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _percent(summary: Summary) -> str:
    return f"{100 * summary.level:g} %"
