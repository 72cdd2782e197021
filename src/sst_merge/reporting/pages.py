"""Self-contained HTML pages: styles and pictures inside, nothing loaded from anywhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..texts import visible
from .answer_cards import AnswerGroup
from .records import option_rows
from .tables import cell_text, numeric_columns

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["YOUR_OWN", "DemoPage", "PageTable", "demo_page", "inline_svg", "render_page"]

YOUR_OWN = "sst-merge merge --base BASE --skill ADAPTER --safety ADAPTER -o out/merged --dry-run"
"""What to type after a demo."""

_SHOWN_ROWS = 12


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table of a page.

    Attributes:
        caption: one line above it, saying what is measured on how many samples.
        columns: headings.
        rows: cells, one sequence a row; figures with their intervals, see ``rate_with_interval``.
        highlight: first cell of the row to set in bold, or None.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    highlight: str | None = None

    @property
    def cells(self) -> list[list[str]]:
        """The cells as text."""
        return [[cell_text(cell) for cell in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are right-aligned."""
        return numeric_columns(self.rows, self.columns)

    @property
    def long(self) -> bool:
        """Whether the table is folded away at first."""
        return len(self.rows) > _SHOWN_ROWS


@dataclass(frozen=True, kw_only=True)
class DemoPage:
    """What the page of a demo or an experiment shows, top to bottom.

    Attributes:
        title: heading.
        summary: the result in one or two sentences.
        figure_svg: text of an SVG file, put into the page; None for a page without picture.
        figure_caption: below the picture.
        tables: results.
        answers: what the models said, side by side.
        notes: what a reader should know before believing them.
        facts: seeds, numbers of samples, versions: name → value.
        command: what to type next, or None.
        command_note: sentence before the command.
    """

    title: str
    summary: str
    figure_svg: str | None = None
    figure_caption: str = ""
    tables: Sequence[PageTable] = ()
    answers: Sequence[AnswerGroup] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    command: str | None = None
    command_note: str = "The same on your own model:"


def demo_page(context: DemoPage) -> str:
    """The page of a demo or an experiment."""
    figure = None if context.figure_svg is None else inline_svg(context.figure_svg)
    return render_page("demo.html", page=context, figure=figure, facts=option_rows(context.facts))


def inline_svg(text: str, prefix: str = "") -> Any:
    """The <svg> element of an SVG file alone; a prefix keeps the ids of several pictures on one page apart.

    Raises:
        DataError: the text is not an SVG.
    """
    from markupsafe import Markup

    found = re.search(r"<svg\b.*</svg>", text, flags=re.DOTALL)
    if found is None:
        raise DataError(f"no <svg> element in {text[:40]!r}; pass the text of the SVG file, not its path")
    # Metadata names outside addresses and means nothing inside a page.
    element = re.sub(r"<metadata>.*?</metadata>", "", found[0], flags=re.DOTALL)
    if prefix:
        element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", element)
    return Markup(element)


def render_page(template: str, **context: Any) -> str:
    """HTML from a template of this package; all text is escaped."""
    return _templates().get_template(template).render(**context)


@cache
def _templates() -> "Environment":
    """This package's templates, each of which is compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sst_merge.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> object:
    """Text of others without what HTML does not allow, or would turn around; finished HTML stays."""
    return value if not isinstance(value, str) or hasattr(value, "__html__") else visible(value)
