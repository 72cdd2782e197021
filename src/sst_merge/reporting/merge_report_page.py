"""The page of one merge: what went in, what the method saw, and what came out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ..markup import script_json
from .chart_svg import chart_svg, legend
from .charts import Shown
from .heat_map import HeatMap
from .merge_pictures import merge_pictures, most_changed, not_pictured
from .pages import PageTable, render_page
from .plotly_charts import library, plotly_figure
from .records import INPUT_COLUMNS, base_name, checked_report, input_rows, option_rows, output_rank
from .tables import cell_text, rate_with_interval
from .tile_svg import tiles_svg

__all__ = ["merge_page"]


def merge_page(report: Mapping[str, Any]) -> str:
    """The page of one merge.

    Args:
        report: contents of ``merge_report.json``; `paper`, `warnings`, `output`, `method_report`, `calibration`,
            `base_model`, `rank`, `energy` and `compute_dtype` may be absent.

    Returns:
        HTML that needs no other file and no network: its pictures are SVG, and answer to the pointer where Plotly is
        installed (extra ``report``) and packed into the page.
    """
    report = checked_report(report)
    modules = report["modules"]
    # Nobody knows it of a sum whose factors stand side by side.
    effective = any(m["effective_rank"] is not None for m in modules.values())
    columns = ("Module", "Rank", "Kept energy", "‖ΔW‖", *(["Effective rank"] if effective else []), "Shape merged")
    figures = [
        (
            name,
            m["rank"],
            f"{m['kept_energy']:.4f}",
            f"{m['norm']:.4g}",
            *([rate_with_interval(m["effective_rank"], digits=1)] if effective else []),
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
    if said := not_pictured(report):
        rows = option_rows(said)
        tables.append(PageTable(caption="What the method says about its work", columns=("Figure", "Value"), rows=rows))
    tables.append(PageTable(caption=f"Merged modules ({len(modules)})", columns=columns, rows=figures))
    if output.get("files"):
        tables.append(
            PageTable(caption="Written files", columns=("File", "SHA-256"), rows=sorted(output["files"].items()))
        )
    versions = PageTable(caption="Versions", columns=("Package", "Version"), rows=option_rows(report["versions"]))
    shown = merge_pictures(report)
    found = library() if shown else None
    return render_page(
        "merge.html",
        report=report,
        facts=facts,
        tables=[*tables, versions],
        pictures=[(of, _drawn(of)) for of in shown],
        most=most_changed(report),
        library=found,
        figures=None if found is None else Markup(script_json([plotly_figure(of) for of in shown])),
    )


class _Drawing(NamedTuple):
    svg: Markup
    legend: Sequence[tuple[Markup, str]]


def _drawn(shown: Shown) -> _Drawing:
    label = f"{shown.title}. {shown.caption}"
    if isinstance(shown.picture, HeatMap):
        return _Drawing(tiles_svg(shown.picture, label=label), ())
    return _Drawing(chart_svg(shown.picture, label=label), legend(shown.picture))
