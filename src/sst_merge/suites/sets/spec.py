"""What is known about one public data set: where it lies, what its columns mean, what its licence is."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data_loader import normalise_prompt
from ...data_loader.formats import read_file

__all__ = ["HubPart", "Part", "Row", "SetSpec", "content_id", "distinct", "field"]

# One row of a set: `id` and `prompt`, and what else the set has, all text. Lists are JSON.
Row = Mapping[str, str]
# Name of a file (without ending) or of a hub part, and the records it holds.
Part = tuple[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class HubPart:
    """One split on the hub.

    Attributes:
        name: what the rows of this part are called, as the file's name does it for a folder.
        subset: configuration of the data set, or None.
        split: its split.
    """

    name: str
    subset: str | None
    split: str


def _one_part(path: Path) -> list[Part]:
    return [(path.name.split(".")[0], read_file(path))]


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """One data set.

    Attributes:
        name: as ``--exclude`` takes it.
        summary: one line.
        files: below the data folder, in the order in which they are read.
        rows: parts → rows in the schema of this package, the same for folder and hub.
        hub: id on the Hugging Face hub, or None where no version there has the same rows.
        parts: what is read there.
        licence: of the data, as its authors state it.
        get: where it comes from, as a sentence for people who do not have it.
        partial: the folder holds a part of the set, so folder and hub differ; the SHA-256 says which was used.
        read: one of `files` → its parts. By default one part, named like the file: whatever
            :func:`~sst_merge.data_loader.formats.read_file` reads.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    rows: Callable[[Sequence[Part]], list[Row]]
    hub: str | None
    parts: tuple[HubPart, ...] = ()
    licence: str
    get: str
    partial: bool = False
    read: Callable[[Path], list[Part]] = _one_part


def content_id(name: str, prompt: str) -> str:
    """An id that depends on nothing but the words, for sets whose versions number their rows differently.

    Args:
        name: of the set.
        prompt: the row's text; case and white space do not matter.

    Returns:
        ``name/`` and 12 hexadecimal digits.
    """
    return f"{name}/{hashlib.sha256(normalise_prompt(prompt).encode()).hexdigest()[:12]}"


def distinct(rows: Iterable[Row]) -> list[Row]:
    """One row an id, in the order of ids, whatever order the rows came in.

    Args:
        rows: with ids that depend on their words (:func:`content_id`).

    Returns:
        Of rows with equal ids the one whose values come first in alphabetical order.
    """
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row["id"], sorted(row.items()))):
        first.setdefault(row["id"], row)
    return list(first.values())


def field(record: Mapping[str, Any], *names: str) -> str:
    """The first of several columns that a record has, as text.

    Args:
        record: one record as read.
        *names: columns in order of preference; versions of a set call the same thing differently.

    Returns:
        The value; missing values (None) are "".

    Raises:
        KeyError: the record has none of the columns.
    """
    for name in names:
        if name in record:
            value = record[name]
            return "" if value is None else str(value)
    raise KeyError(names[0])
