"""The single adapters behind evaluated merges: a merge's figures mean little without theirs in the same table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ..reading import cause, parse_json
from ..texts import shown
from .adapters import BASE_NAME, EvaluatedAdapter

__all__ = ["MergeSource", "MergeSources", "find_merge_sources"]

_REPORT = "merge_report.json"
_FORMAT = "sst_merge.merge_report/"


@dataclass(frozen=True)
class MergeSource:
    """An adapter that a merge was made of.

    Attributes:
        name: under which it is evaluated.
        role: in the merge, ``utility`` or ``safety``.
    """

    name: str
    role: str


@dataclass(frozen=True)
class MergeSources:
    """What merges were made of.

    Attributes:
        found: name → folder of those that were found without being named.
        merges: merge → all its adapters, where all of them are evaluated.
        warnings: a sentence on each adapter that is missing.
    """

    found: dict[str, Path] = field(default_factory=dict)
    merges: dict[str, tuple[MergeSource, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def find_merge_sources(evaluated: Sequence[EvaluatedAdapter]) -> MergeSources:
    """Look for the adapters that every merge among some adapters was made of.

    A merge's report holds each adapter's folder as it was given (of an absolute one, the last name) and the SHA-256 of
    its files. Where it is not evaluated already, the folder is looked for in the working folder and beside the merge,
    and one level below both; only the same files count.

    Args:
        evaluated: adapters, merges among them.

    Returns:
        The adapters, each once.
    """
    sources = MergeSources()
    # Name by files; None where they were looked for and not found.
    known: dict[tuple[tuple[str, str], ...], str | None] = {_key(adapter.files): adapter.name for adapter in evaluated}
    names = {BASE_NAME, *(adapter.name for adapter in evaluated)}
    for merge in evaluated:
        made_of = []
        for record in _records(merge, sources.warnings):
            key, name = _key(record["files"]), str(record["name"])
            if key and key not in known:
                folder = _found(record, merge.path)
                if folder is None:
                    known[key] = None
                    sources.warnings.append(
                        f"{merge.name}: its input {name!r} ({record['path']}) is not evaluated and was not found, so "
                        f"no table shows it; add --adapter {name}=FOLDER"
                    )
                else:
                    known[key] = free = _free_name(name, merge.name, names)
                    sources.found[free] = folder
                    names.add(free)
            made_of.append((known.get(key), str(record["role"])))
        if made_of and all(name is not None for name, _ in made_of):
            sources.merges[merge.name] = tuple(MergeSource(str(name), role) for name, role in made_of)
    return sources


def _free_name(name: str, merge: str, taken: set[str]) -> str:
    """The name itself, or the first longer one that no model of the table has."""
    if name not in taken:
        return name
    longer = (f"{name} of {merge}{'' if number == 1 else f' ({number})'}" for number in count(1))
    return next(one for one in longer if one not in taken)


def _records(merge: EvaluatedAdapter, warnings: list[str]) -> list[Mapping[str, Any]]:
    path = merge.path / _REPORT
    if not path.is_file():
        return []
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
        if not str(report["format"]).startswith(_FORMAT):
            raise ValueError(f"format {shown(report['format'])}")
        return [_record(record) for record in report["adapters"]]
    except (ArithmeticError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        warnings.append(f"{merge.name}: {path.name} cannot be read ({cause(error)}), so its inputs are not looked for")
        return []


def _record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a report says about one adapter.

    Raises:
        ValueError: a field of another type.
    """
    found = {key: record[key] for key in ("name", "role", "path", "files")}
    files = found["files"]
    named = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    if not named or not isinstance(found["name"], str) or not isinstance(found["path"], str | None):
        raise ValueError(f"an adapter as {shown(found)}")
    return found


def _found(record: Mapping[str, Any], merge: Path) -> Path | None:
    from ..lora_utils import adapter_fingerprints

    if record["path"] is None:
        return None
    places = (
        folder
        for root in (Path(), merge.parent)
        # Not by a pattern: the path is somebody else's, and may hold asterisks.
        for folder in (root / record["path"], *(inner / record["path"] for inner in _folders(root)))
    )
    for folder in places:
        if all((folder / name).is_file() for name in record["files"]) and (
            adapter_fingerprints(folder) == record["files"]
        ):
            return folder
    return None


def _folders(root: Path) -> list[Path]:
    return sorted(inner for inner in root.iterdir() if inner.is_dir())


def _key(files: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(files.items()))
