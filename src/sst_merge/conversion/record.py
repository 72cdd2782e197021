"""What is written beside an export: where it comes from, what it cost, and a page for whoever finds it."""

import json
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..errors import AdapterError
from ..lora_utils import Adapter, hub_id
from ..markup import markdown_code, markdown_text
from ..reading import parse_json, reading
from .serve_rank import ModuleCut, lost_share

__all__ = ["REPORT_NAME", "export_card", "export_report", "record_text"]

REPORT_NAME = "export_report.json"
_MERGE_REPORT = "merge_report.json"


def export_report(
    adapter: Adapter,
    *,
    form: str,
    base: str | None,
    settings: Mapping[str, Any],
    cuts: Mapping[str, ModuleCut] | None = None,
) -> dict[str, Any]:
    """The record of an export; the report of the merge that made the adapter is inside.

    Args:
        adapter: that was exported.
        form: ``peft``, ``gguf``, ``full`` or ``ollama``.
        base: folder or hub id.
        settings: what was asked for.
        cuts: module → what its rank cost.

    Raises:
        AdapterError: the folder's merge report cannot be read.
    """
    record: dict[str, Any] = {
        "form": form,
        "adapter": {"name": adapter.name, "files": adapter.fingerprints()},
        "base_model": base,
        "settings": dict(settings),
        "sst_merge": __version__,
    }
    if adapter.converted is not None:
        record["converted"] = adapter.converted.to_dict()
    if cuts is not None:
        record["lost_energy"] = lost_share(cuts.values())
        record["modules"] = {name: {"rank": cut.rank, "lost_energy": cut.share} for name, cut in cuts.items()}
    file = None if adapter.path is None else adapter.path / _MERGE_REPORT
    if file is not None and file.is_file():
        with reading(file, AdapterError, "the report of a merge", "remove it, or merge again"):
            record["merge"] = parse_json(file.read_text(encoding="utf-8"))
    return record


def record_text(record: Mapping[str, Any]) -> str:
    """Text of a record's file."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def export_card(record: Mapping[str, Any]) -> str:
    """A model card in the hub's format, made from the record alone.

    Args:
        record: of :func:`export_report`.
    """
    import yaml

    form = str(record["form"])
    base = hub_id(record.get("base_model"))
    fields: dict[str, Any] = {"library_name": {"peft": "peft", "full": "transformers"}.get(form, "gguf")}
    if base is not None:
        fields |= {"base_model": base, "base_model_relation": "merge" if form == "full" else "adapter"}
    fields["tags"] = ["lora", "merge", "sst-merge", *([] if form in {"peft", "full"} else ["gguf"])]
    merge = record.get("merge") or {}
    how = f", merged with {markdown_code(str(merge['method']))}" if "method" in merge else ""
    lines = [
        f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n",
        f"# {markdown_text(str(record['adapter']['name']))}\n",
        f"{_WHAT[form]} of {markdown_text(base or 'its base')}{how}, written by SST-Merge {record['sst_merge']}.\n",
    ]
    if "lost_energy" in record:
        lines.append(
            f"Rank {record['settings'].get('rank')}: {_percent(record['lost_energy'])} of the energy is lost.\n"
        )
    lines.append(f"Settings, SHA-256 of the adapter's files and the report of the merge: `{REPORT_NAME}`.\n")
    return "\n".join(lines)


_WHAT = {
    "peft": "A LoRA adapter",
    "gguf": "A LoRA adapter for llama.cpp",
    "full": "A whole model, with the update in its weights,",
    "ollama": "A LoRA adapter for Ollama",
}


def _percent(share: float) -> str:
    return "none" if share == 0.0 else f"{100 * share:.3g} %"
