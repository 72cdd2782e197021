"""The single adapters behind evaluated merges: a merge's figures mean little without theirs in the same table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .adapters import EvaluatedAdapter

__all__ = ["MergeInputs", "find_merge_inputs"]

_REPORT = "merge_report.json"
_FORMAT = "sst_merge.merge_report/"


@dataclass(frozen=True)
class MergeInputs:
    """What merges were made of and nobody named.

    Attributes:
        found: name → folder of those that were found.
        warnings: a sentence on each of the others.
    """

    found: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def find_merge_inputs(evaluated: Sequence[EvaluatedAdapter]) -> MergeInputs:
    """Look for the inputs of every merge among some adapters that are not among them.

    A merge's report holds each input's folder as it was given (of an absolute one, the last name) and the SHA-256 of
    its files. The folder is looked for in the working folder and beside the merge, and one level below both; only the
    same files count.

    Args:
        evaluated: adapters, merges among them.

    Returns:
        The inputs, each once.
    """
    inputs = MergeInputs()
    known = {_key(adapter.files) for adapter in evaluated}
    names = {adapter.name for adapter in evaluated}
    for merge in evaluated:
        for record in _records(merge, inputs.warnings):
            key, name = _key(record["files"]), str(record["name"])
            if not key or key in known:
                continue
            known.add(key)
            folder = _found(record, merge.path)
            if folder is None:
                inputs.warnings.append(
                    f"{merge.name}: its input {name!r} ({record['path']}) is not evaluated and was not found, so no "
                    f"table shows it; add --adapter {name}=FOLDER"
                )
                continue
            name = name if name not in names else f"{name} of {merge.name}"
            names.add(name)
            inputs.found[name] = folder
    return inputs


def _records(merge: EvaluatedAdapter, warnings: list[str]) -> Iterator[Mapping[str, Any]]:
    path = merge.path / _REPORT
    if not path.is_file():
        return
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not str(report["format"]).startswith(_FORMAT):
            raise ValueError(f"format {report['format']!r}")
        records = [{key: record[key] for key in ("name", "path", "files")} for record in report["adapters"]]
    except (ValueError, KeyError, TypeError) as error:
        warnings.append(f"{merge.name}: {path.name} cannot be read ({error}), so its inputs are not looked for")
        return
    yield from records


def _found(record: Mapping[str, Any], merge: Path) -> Path | None:
    from ..lora_utils import adapter_fingerprints

    if record["path"] is None:
        return None
    places = (
        folder
        for root in (Path(), merge.parent)
        for folder in (root / record["path"], *root.glob(f"*/{record['path']}"))
    )
    for folder in places:
        if all((folder / name).is_file() for name in record["files"]) and (
            adapter_fingerprints(folder) == record["files"]
        ):
            return folder
    return None


def _key(files: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(files.items()))
