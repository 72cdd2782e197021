"""Reading a set: from the data folder, or from the hub, with the same rows in the same order."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ...data_loader.formats import read_hub
from ...errors import DataError, SSTMergeError
from ...reading import cause, reading
from .spec import Part, Row, SetSpec

__all__ = ["EvalSet", "Source", "read_set"]

Source = Literal["auto", "folder", "hub"]

# Environment variable that names the data folder.
_DATA_VARIABLE = "SST_MERGE_DATA"


@dataclass(frozen=True)
class EvalSet:
    """A set, read.

    Attributes:
        name: of the set.
        rows: text only, each with `id` and `prompt`; ids are unique.
        sha256: over the rows, as hexadecimal digits. Equal rows in equal order give equal digits, whatever they were
            read from.
        origin: file or hub id they were read from.
        licence: of the data.
    """

    name: str
    rows: tuple[Row, ...]
    sha256: str
    origin: str
    licence: str


def read_set(spec: SetSpec, root: Path | None = None, source: Source = "auto") -> EvalSet:
    """Read a set.

    In the data folder a set lies as its plain files (see the table of sets), or as a copy of its hub repository under
    the hub's id, such as ``openai/gsm8k``.

    Args:
        spec: which set.
        root: the data folder; by default the one named by the environment variable ``SST_MERGE_DATA``.
        source: ``folder`` or ``hub``; ``auto`` takes the folder where it holds the set, else the hub.

    Returns:
        The set.

    Raises:
        DataError: it cannot be read; the message says where it was looked for, how to get it, and under which licence.
    """
    if source not in {"auto", "folder", "hub"}:
        raise DataError(f"source {source!r}; expected auto, folder or hub")
    if root is None and os.environ.get(_DATA_VARIABLE):
        root = Path(os.environ[_DATA_VARIABLE])
    tried: list[str] = []
    if source != "hub":
        if root is None:
            tried.append(f"{_DATA_VARIABLE} names no folder")
        else:
            files = [root / file for file in spec.files]
            missing = [str(file) for file in files if not file.is_file()]
            if not missing:
                return _from_files(spec, tuple(files), tuple(file.stat().st_mtime_ns for file in files))
            tried.append(f"{', '.join(missing)} not there")
            if spec.hub is not None and (root / spec.hub).is_dir():
                return _from_hub(spec, str(root / spec.hub))
    if source != "folder":
        if spec.hub is None:
            tried.append("no version with these rows is known on the hub")
        else:
            try:
                return _from_hub(spec, spec.hub)
            except DataError as error:
                raise DataError(_missing(spec, [*tried, str(error)])) from error
    raise DataError(_missing(spec, tried))


def _missing(spec: SetSpec, tried: list[str]) -> str:
    return (
        f"data set {spec.name!r} is missing: {'; '.join(tried)}. Get it from {spec.get} (licence: {spec.licence}) and "
        f"put it below the folder that {_DATA_VARIABLE} names, as {', '.join(spec.files)}"
    )


# The times of the files are part of the key, so that a changed file is read again.
@lru_cache(maxsize=64)
def _from_files(spec: SetSpec, files: tuple[Path, ...], _times: tuple[int, ...]) -> EvalSet:
    with reading(", ".join(map(str, files)), DataError, f"data set {spec.name!r}", f"get it again from {spec.get}"):
        parts = [part for file in files for part in spec.read(file)]
    return _build(spec, parts, ", ".join(map(str, files)))


@lru_cache(maxsize=64)
def _from_hub(spec: SetSpec, where: str) -> EvalSet:
    parts: list[Part] = [(part.name, read_hub(where, part.subset, part.split)) for part in spec.parts]
    return _build(spec, parts, where)


def _build(spec: SetSpec, parts: list[Part], origin: str) -> EvalSet:
    try:
        rows = tuple(spec.rows(parts))
    except SSTMergeError:
        raise
    except Exception as error:
        found = ", ".join(map(repr, parts[0][1][0])) if parts and parts[0][1] else "no records"
        raise DataError(
            f"data set {spec.name!r} from {origin}: a record lacks, or fills wrongly, {cause(error)}; columns found: "
            f"{found}. Get it again from {spec.get}"
        ) from error
    if not rows:
        raise DataError(f"data set {spec.name!r} from {origin}: holds no rows; get it again from {spec.get}")
    seen: set[str] = set()
    digest = hashlib.sha256()
    for row in rows:
        if row["id"] in seen:
            raise DataError(f"data set {spec.name!r} from {origin}: two rows have the id {row['id']!r}")
        seen.add(row["id"])
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return EvalSet(spec.name, rows, digest.hexdigest(), origin, spec.licence)
