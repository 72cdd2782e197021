"""Rows by id: fixed selections are committed as ids, never as text, and resolved through the loaders."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .read import EvalSet
from .spec import Row

__all__ = ["fingerprint", "read_ids", "resolve"]


def read_ids(path: Path) -> Mapping[str, Any]:
    """A committed selection.

    Args:
        path: of its JSON file.

    Returns:
        Its content: `name`, `sha256`, and ids.
    """
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def resolve(ids: Sequence[str], sets: Sequence[EvalSet], *, selection: str, sha256: str) -> list[Row]:
    """Rows of several sets by id.

    Args:
        ids: ``set/…``, in the order wanted.
        sets: all sets that the ids name.
        selection: name of the selection, for messages.
        sha256: of the rows when the selection was made (:func:`fingerprint`).

    Returns:
        The rows.

    Raises:
        DataError: a row is missing, or its words have changed since the selection was made.
    """
    found = {row["id"]: row for one in sets for row in one.rows}
    origins = {one.name: one.origin for one in sets}
    missing = [row_id for row_id in ids if row_id not in found]
    if missing:
        name = missing[0].split("/")[0]
        raise DataError(
            f"{selection}: {len(missing)} of its {len(ids)} rows are missing ({', '.join(missing[:3])}, …); looked for "
            f"in {origins[name]}; give the complete set {name!r}"
        )
    rows = [found[row_id] for row_id in ids]
    if fingerprint(rows) != sha256:
        raise DataError(
            f"{selection}: the rows in {'; '.join(origins.values())} have other words than those it was made from; use "
            "the versions of the sets that docs/evaluation_suites.md names"
        )
    return rows


def fingerprint(rows: Sequence[Row]) -> str:
    """A hash over ids and words.

    Args:
        rows: in order.

    Returns:
        Hexadecimal digits.
    """
    return hashlib.sha256(json.dumps([[row["id"], row["prompt"]] for row in rows]).encode()).hexdigest()
