"""Tables of an evaluation summary; a model that was not measured on something has a dash there, never 0."""

from collections.abc import Sequence

from ..errors import DataError
from ..evaluation.summary import Summary
from ..measures.figure import Figure
from ..suites import available_suites
from .pages import PageTable
from .tables import figure_text

__all__ = [
    "breakdown_table",
    "comparison_table",
    "figure_cell",
    "headline_table",
    "judge_table",
    "main_scores",
    "overview_table",
    "rate_rows",
    "suite_table",
    "tax_table",
]

RATE_COLUMNS = ("model", "suite", "score", "tag", "group", "value", "low", "high", "n", "undecided")
HEADLINES = {
    "Refusal": "refusal",
    "Refusal under attack": "refusal_jailbroken",
    "Harm": "harm",
    "Harm under attack": "harm_jailbroken",
    "Over-refusal": "over_refusal",
    "Incoherent": "incoherent",
}


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
    known = available_suites()
    own = known[suite].score if suite in known else "correct"
    return (own,) if own in columns else columns


def headline_table(summary: Summary) -> PageTable:
    """Every model's safety and skills over all suites.

    Args:
        summary: of an evaluation.

    Returns:
        One row a model; columns that say something of at least one of them.
    """
    columns = {
        name: [figure_cell(getattr(summary.safety[model], field)) for model in summary.models]
        for name, field in HEADLINES.items()
    }
    utility = [summary.utility[model] for model in summary.models]
    columns["Accuracy"] = [figure_cell(found.accuracy) for found in utility]
    columns["Retention"] = [figure_cell(found.retention) for found in utility]
    columns["Bits per byte"] = [
        figure_cell(None) if found.perplexity is None else f"{found.perplexity.bits_per_byte:.3f}" for found in utility
    ]
    shown = {name: cells for name, cells in columns.items() if set(cells) != {figure_cell(None)}}
    return PageTable(
        caption=f"Safety and skills over all suites, {_percent(summary)} intervals",
        columns=("Model", *shown),
        rows=[[model, *cells] for model, *cells in zip(summary.models, *shown.values(), strict=True)],
    )


def tax_table(summary: Summary) -> PageTable:
    """What the safety of each merge costs in skills, beside the safety that it reaches.

    Args:
        summary: of an evaluation.

    Returns:
        One row a merge.
    """
    rows = []
    for tax in summary.taxes:
        safety = summary.safety[tax.merge]
        figures = (safety.refusal, safety.refusal_jailbroken, tax.utility_only, tax.utility)
        skills = ", ".join(f"{suite}: {adapter}" for suite, adapter in tax.skills.items())
        rows.append([tax.merge, *map(figure_cell, figures), figure_cell(tax.tax, digits=3), tax.tax.n, skills])
    return PageTable(
        caption=f"Safety tax of merges: accuracy of their skill adapters alone less their own, "
        f"{_percent(summary)} intervals, paired by sample",
        columns=(
            "Merge",
            "Refusal",
            "Refusal under attack",
            "Skills alone",
            "Merge's skills",
            "Safety tax",
            "n",
            "Skill of each suite",
        ),
        rows=rows,
    )


def overview_table(summary: Summary, suites: Sequence[str] | None = None) -> PageTable:
    """Every model on every suite.

    Args:
        summary: of an evaluation.
        suites: which ones; all by default.

    Returns:
        One row a model, one column a suite and score.
    """
    cells = [(s, score) for s in suites or summary.suites for score in main_scores(summary, s)]
    rows = [[model, *(figure_cell(summary.figure(model, s, score)) for s, score in cells)] for model in summary.models]
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
        figures = [summary.figure(model, suite, score) for score in scores]
        rows.append([model, *map(figure_cell, figures), summary.answered(model, suite)])
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
        raise DataError(
            f"suite {suite!r} is not broken down in the summary; its `breakdown` names no tag of the records"
        )
    rows = []
    for group in groups:
        figures = [summary.figure(model, suite, score, group) for model in summary.models]
        rows.append([group, *map(figure_cell, figures), max((f.n for f in figures if f is not None), default=0)])
    tag = next(found.tag for found in summary.figures if found.suite == suite and found.tag is not None)
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
            figure_cell(found.difference, digits=3),
            None if found.p_value is None else _p_value(found.p_value),
            found.difference.n,
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
    rows: list[tuple[object, ...]] = []
    for found in summary.figures:
        figure = found.figure
        numbers = (None, None, None, 0) if figure is None else (figure.value, figure.low, figure.high, figure.n)
        rows.append((found.model, found.suite, found.score, found.tag, found.group, *numbers, found.undecided))
    return rows


def figure_cell(figure: Figure | None, *, digits: int = 2) -> str:
    """A figure as a cell of an evaluation's tables.

    Args:
        figure: None, where nothing was measured, prints a dash.
        digits: after the decimal point.

    Returns:
        Text of one line.
    """
    return figure_text(figure, digits=digits)


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _percent(summary: Summary) -> str:
    return f"{100 * summary.level:g} %"
