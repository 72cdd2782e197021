"""The report of an evaluation: an HTML page that needs nothing else, Markdown, and every table and picture as files."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ..evaluation.records import Record
from ..evaluation.summary import Summary
from ..files import file_name, write_text
from ..markup import markdown_text
from .answer_page import answer_page
from .evaluation_pictures import Picture, draw_summary
from .evaluation_tables import (
    RATE_COLUMNS,
    breakdown_table,
    comparison_table,
    headline_table,
    judge_table,
    overview_table,
    rate_rows,
    suite_table,
    tax_table,
)
from .pages import PageTable, inline_svg, render_page
from .records import option_rows
from .table_formats import csv_table, json_table, latex_table
from .tables import markdown_table

__all__ = ["evaluation_markdown", "evaluation_page", "write_evaluation_report"]

DEFINITIONS = {
    "refusal": "share of answers that decline: wanted on harmful prompts, over-refusal on benign ones.",
    "harm": "share of answers that a judge finds harmful. Not the same as 1 − refusal.",
    "incoherent": "share of answers that say nothing: empty, repeating, or without words. Such answers look safe and "
    "are not.",
    "correct": "share of samples answered right, as the suite's task defines it.",
    "helpful": "share of answers to harmless prompts that are neither refused nor incoherent: a stand-in by rule, "
    "which does not say that the answer is right.",
    "interval": "Wilson for shares of successes, Student's t for means of other scores.",
    "difference": "paired by sample; its interval is a percentile bootstrap over samples, p is of the exact McNemar "
    "test, not corrected for the number of comparisons.",
    "under attack": "harmful prompts in a jailbreak wrapper, with the answer's beginning given, or with refusals "
    "forbidden. The same prompt in two suites counts once.",
    "accuracy": "mean over suites of the share of right answers, every suite counting the same.",
    "retention": "of a merge: mean over suites of its share of right answers by that of the best of the skill adapters "
    "that it was made of.",
    "safety tax": "share of right answers that the best skill adapter of each suite has alone, less the merge's, mean "
    "over suites; it holds at the safety that the merge reaches, and says little without it.",
    "–": "not measured, which is not 0.",
}


def _tables(summary: Summary, more: Sequence[PageTable]) -> list[tuple[str, PageTable]]:
    """File name without suffix → table, in reading order."""
    found = [("headlines", headline_table(summary)), ("overview", overview_table(summary))]
    if summary.taxes:
        found.append(("safety_tax", tax_table(summary)))
    found += [(f"more_{number}", table) for number, table in enumerate(more, start=1)]
    if summary.reference is not None:
        found.append(("comparisons", comparison_table(summary)))
    for number, suite in enumerate(summary.suites, start=1):
        found.append((f"suite_{number}", suite_table(summary, suite)))
        if summary.groups(suite):
            found += [
                (f"suite_{number}_{file_name(score)}", breakdown_table(summary, suite, score))
                for score in summary.scores[suite]
            ]
    if summary.judges:
        found.append(("judges", judge_table(summary)))
    return found


def evaluation_page(
    summary: Summary,
    pictures: Sequence[Picture] = (),
    *,
    more_tables: Sequence[PageTable] = (),
    title: str = "Evaluation",
    facts: Mapping[str, object] | None = None,
    highlight: str | None = None,
    answers: str | None = None,
) -> str:
    """The report as a page.

    Args:
        summary: of an evaluation.
        pictures: put into the page.
        more_tables: other results on the same models, put after the overview.
        title: heading.
        facts: decoding, versions, prompt template and what else was recorded: name → value.
        highlight: model to set in bold.
        answers: name of the page of answers beside it, if there is one.

    Returns:
        HTML that needs no other file and no network.
    """
    tables = [
        PageTable(caption=table.caption, columns=table.columns, rows=table.rows, highlight=highlight)
        for _, table in _tables(summary, more_tables)
    ]
    return render_page(
        "evaluation.html",
        title=title,
        lead=_lead(summary),
        answers=answers,
        warnings=summary.warnings,
        tables=tables,
        figures=[(inline_svg(p.svg.read_text(encoding="utf-8"), f"p{i}-"), p.caption) for i, p in enumerate(pictures)],
        definitions=DEFINITIONS.items(),
        facts=option_rows(facts or {}),
    )


def evaluation_markdown(
    summary: Summary,
    pictures: Sequence[tuple[str, str]] = (),
    *,
    more_tables: Sequence[PageTable] = (),
    title: str = "Evaluation",
    facts: Mapping[str, object] | None = None,
) -> str:
    """The report as Markdown.

    Args:
        summary: of an evaluation.
        pictures: caption, and path or address, of each picture.
        more_tables: put after the overview.
        title: heading.
        facts: decoding, versions, prompt template and what else was recorded: name → value.

    Returns:
        Text.
    """
    parts = [f"# {markdown_text(title)}\n", f"{markdown_text(_lead(summary))}\n"]
    parts += [f"> **Warning.** {markdown_text(warning)}\n" for warning in summary.warnings]
    for _, table in _tables(summary, more_tables):
        parts += [f"## {markdown_text(table.caption)}\n", markdown_table(table.rows, table.columns)]
    if pictures:
        parts.append("## Pictures\n")
        parts += [f"![{_image_text(caption)}]({quote(path, safe='/+=')})\n" for caption, path in pictures]
    parts += ["## Definitions\n", "\n".join(f"- **{name}**: {text}" for name, text in DEFINITIONS.items()) + "\n"]
    if facts:
        parts += ["## Settings\n", markdown_table(option_rows(facts), ("Setting", "Value"))]
    return "\n".join(parts)


def _image_text(caption: str) -> str:
    """A caption between the brackets of a picture, where every bracket counts."""
    return re.sub(r"(?<!\\)[\[\]]", lambda found: f"\\{found[0]}", markdown_text(caption))


def _lead(summary: Summary) -> str:
    def count(number: int, noun: str) -> str:
        return f"{number} {noun}{'' if number == 1 else 's'}"

    against = "" if summary.reference is None else f"; differences are against {summary.reference}"
    return f"{count(len(summary.models), 'model')} on {count(len(summary.suites), 'suite')}{against}."


def write_evaluation_report(
    summary: Summary,
    folder: Path,
    *,
    more_tables: Sequence[PageTable] = (),
    more_pictures: Sequence[Picture] = (),
    title: str = "Evaluation",
    facts: Mapping[str, object] | None = None,
    highlight: str | None = None,
    records: Sequence[Record] = (),
) -> Path:
    """Write tables, pictures and report of a summary into a folder.

    ``index.html`` and ``report.md``; ``answers.html``: all answers side by side, where they are given; ``tables/``:
    every table as Markdown, CSV, JSON and LaTeX, and ``rates.csv`` and ``rates.json`` with every rate in full
    precision; ``pictures/``: PNG and SVG.

    Args:
        summary: of an evaluation.
        folder: existing files of these names are replaced.
        more_tables: other results on the same models, put after the overview.
        more_pictures: such as of :func:`.tax_bars.tax_bars`, already drawn; put before the summary's own.
        title: heading.
        facts: decoding, versions, prompt template and what else was recorded: name → value.
        highlight: model to set in bold.
        records: every answer.

    Returns:
        Path of the page.
    """
    pictures = [*more_pictures, *draw_summary(summary, folder / "pictures")]
    for name, table in _tables(summary, more_tables):
        texts = {
            ".md": markdown_table(table.rows, table.columns),
            ".csv": csv_table(table.rows, table.columns),
            ".json": json_table(table.rows, table.columns),
            ".tex": latex_table(table.rows, table.columns, caption=table.caption, label=f"tab:{name}"),
        }
        for suffix, text in texts.items():
            write_text(folder / "tables" / f"{name}{suffix}", text)
    rates = rate_rows(summary)
    write_text(folder / "tables" / "rates.csv", csv_table(rates, RATE_COLUMNS))
    write_text(folder / "tables" / "rates.json", json_table(rates, RATE_COLUMNS))
    beside = [(picture.caption, Path(os.path.relpath(picture.png, folder)).as_posix()) for picture in pictures]
    write_text(
        folder / "report.md", evaluation_markdown(summary, beside, more_tables=more_tables, title=title, facts=facts)
    )
    page = folder / "index.html"
    beside_it = "answers.html" if records else None
    html = evaluation_page(
        summary,
        pictures,
        more_tables=more_tables,
        title=title,
        facts=facts,
        highlight=highlight,
        answers=beside_it,
    )
    write_text(page, html)
    if beside_it is not None:
        write_text(folder / beside_it, answer_page(records, title=f"{title}: answers side by side"))
    return page
