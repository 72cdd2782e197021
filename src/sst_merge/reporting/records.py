"""``merge_report.json`` as pages and cards read it: required fields checked, tables prepared."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..lora_utils.base_names import hub_id
from .tables import cell_text

__all__ = ["base_name", "checked_report", "hub_id", "input_rows", "option_rows", "output_rank"]

INPUT_COLUMNS = ("Adapter", "Role", "Weight", "Base model", "File", "SHA-256")

_REQUIRED = ("method", "options", "seed", "adapters", "modules", "versions")


def checked_report(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The report itself, if it is one.

    Raises:
        DataError: a required field is missing, or there are no adapters.
    """
    missing = [name for name in _REQUIRED if name not in report]
    if missing or not report["adapters"]:
        lacking = ", ".join(missing) or "an entry in adapters"
        raise DataError(
            f"merge report without {lacking} (it has: {', '.join(report) or 'nothing'}); is it a merge_report.json?"
        )
    return report


def base_name(base_model: str | None) -> str:
    """How a page calls the base model: its id, or the last part of its path."""
    if base_model is None:
        return "not recorded"
    return hub_id(base_model) or base_model.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]


def input_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per input file (one for an adapter that was never on disk), headed by :data:`INPUT_COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for adapter in report["adapters"]:
        about = (
            str(adapter["name"]),
            str(adapter["role"]),
            cell_text(adapter["weight"]),
            base_name(adapter.get("base_model")),
        )
        files = adapter.get("files") or {"in memory": None}
        rows += [(*about, name, cell_text(digest)) for name, digest in sorted(files.items())]
    return rows


def option_rows(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested options as one (name, value) per value, with dotted names."""
    rows: list[tuple[str, str]] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            rows += option_rows(value, f"{prefix}{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            rows.append((f"{prefix}{name}", ", ".join(map(cell_text, value)) or "none"))
        else:
            rows.append((f"{prefix}{name}", cell_text(value)))
    return rows


def output_rank(report: Mapping[str, Any]) -> int:
    """Rank of the written adapter as recorded with the output, else the largest of the modules."""
    recorded = report.get("output", {}).get("rank")
    return int(recorded or max((figures["rank"] for figures in report["modules"].values()), default=0))
