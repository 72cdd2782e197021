"""Self-contained HTML pages: styles and pictures inside, nothing loaded from anywhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..texts import visible
from .answer_cards import AnswerGroup
from .records import INPUT_COLUMNS, base_name, checked_report, input_rows, option_rows, output_rank
from .tables import cell_text, numeric_columns, rate_with_interval

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["YOUR_OWN", "DemoPage", "PageTable", "demo_page", "inline_svg", "merge_page", "render_page"]

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


def merge_page(report: Mapping[str, Any]) -> str:
    """The page of one merge.

    Args:
        report: contents of ``merge_report.json``; `paper`, `warnings`, `output`, `method_report`, `calibration`,
            `base_model`, `rank`, `energy` and `compute_dtype` may be absent.

    Returns:
        HTML that needs no other file and no network.
    """
    report = checked_report(report)
    modules = report["modules"]
    columns = ("Module", "Rank", "Kept energy", "‖ΔW‖", "Effective rank", "Shape merged")
    figures = [
        (
            name,
            m["rank"],
            f"{m['kept_energy']:.4f}",
            f"{m['norm']:.4g}",
            rate_with_interval(m["effective_rank"], digits=1),
            "×".join(map(str, m["core_shape"])),
        )
        for name, m in modules.items()
    ]
    kept = [float(m["kept_energy"]) for m in modules.values()]
    settings = [(name, cell_text(report.get(name))) for name in ("seed", "rank", "energy", "compute_dtype")]
    output = report.get("output", {})
    facts = [
        ("Base model", base_name(report.get("base_model"))),
        ("Modules", str(len(modules))),
        ("Largest rank", str(output_rank(report))),
        ("Least kept energy", f"{min(kept):.4f}" if kept else "–"),
        ("Written as", str(output.get("dtype", "not written"))),
        ("Seed", str(report["seed"])),
    ]
    tables = [
        PageTable(caption="Inputs", columns=INPUT_COLUMNS, rows=input_rows(report)),
        PageTable(caption="Options", columns=("Option", "Value"), rows=[*option_rows(report["options"]), *settings]),
    ]
    if report.get("calibration"):
        used = [(name, data["samples"], data["sha256"]) for name, data in report["calibration"].items()]
        tables.append(PageTable(caption="Calibration data", columns=("Data", "Samples", "SHA-256"), rows=used))
    if report.get("method_report"):
        rows = option_rows(report["method_report"])
        tables.append(PageTable(caption="What the method says about its work", columns=("Figure", "Value"), rows=rows))
    tables.append(PageTable(caption=f"Merged modules ({len(modules)})", columns=columns, rows=figures))
    if output.get("files"):
        tables.append(
            PageTable(caption="Written files", columns=("File", "SHA-256"), rows=sorted(output["files"].items()))
        )
    versions = PageTable(caption="Versions", columns=("Package", "Version"), rows=option_rows(report["versions"]))
    return render_page("merge.html", report=report, facts=facts, tables=[*tables, versions])


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
