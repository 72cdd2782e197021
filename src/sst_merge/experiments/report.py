"""What an experiment leaves beside its cells: figures as JSON, tables as Markdown, pictures."""

import json
from dataclasses import asdict, dataclass, field
from math import isinf
from pathlib import Path
from typing import Any

from ..files import atomic_file
from ..measures.figure import Figure
from ..reporting import PageTable, markdown_table

__all__ = ["Report", "picture_stem", "report_markdown", "write_report"]


@dataclass
class Report:
    """One experiment's results.

    Attributes:
        title: of the page.
        tables: in order.
        pictures: files that were written.
        figures: every figure with its interval, plain values and :class:`~sst_merge.measures.figure.Figure`.
        notes: what a reader should know before believing them.
    """

    title: str
    tables: list[PageTable] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def picture_stem(folder: Path, kind: str, name: str) -> Path:
    """Where a group's picture goes, without suffix.

    Args:
        folder: for pictures.
        kind: of picture.
        name: of the group.

    Returns:
        A path with nothing but letters, digits and ``_`` in its last part.
    """
    return folder / f"{kind}_{''.join(c if c.isalnum() else '_' for c in name)}"


def report_markdown(report: Report, *, level: int = 1) -> str:
    """The tables as Markdown; the same cells give the same text.

    Args:
        report: what was measured.
        level: of the title's heading.

    Returns:
        Text that ends in a line break.
    """
    parts = [f"{'#' * level} {report.title}\n"]
    parts += [f"{note}\n" for note in report.notes]
    parts += [f"{table.caption}.\n\n{markdown_table(table.rows, table.columns)}" for table in report.tables]
    return "\n".join(parts)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``summary.json`` and ``tables.md``; an end of an interval that lies at infinity is null.

    Args:
        report: what was measured.
        folder: to write to.

    Returns:
        The files, pictures included.
    """
    summary, tables = folder / "summary.json", folder / "tables.md"
    figures = {"title": report.title, "notes": report.notes, "figures": _plain(report.figures)}
    for path, text in (
        (summary, json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False) + "\n"),
        (tables, report_markdown(report)),
    ):
        with atomic_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return [summary, tables, *report.pictures]


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return {name: None if isinf(number) else number for name, number in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
