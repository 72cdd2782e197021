"""Rows by id: fixed selections are committed as ids, never as text, and resolved through the loaders."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .load import EvalSet
from .spec import Row

__all__ = ["DRIFT_IDS", "LOOKALIKE_IDS", "fingerprint", "read_ids", "resolve"]

DRIFT_IDS = Path(__file__).with_name("drift_ids.json")
LOOKALIKE_IDS = Path(__file__).with_name("lookalike_ids.json")


def read_ids(path: Path) -> Mapping[str, Any]:
    """A committed selection.

    Args:
        path: one of the files of this package.

    Returns:
        Its content.
    """
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def resolve(ids: Sequence[str], read: Callable[[str], EvalSet], *, selection: str, sha256: str) -> list[Row]:
    """Rows of several sets by id.

    Args:
        ids: ``set/…``, in the order wanted.
        read: reads a set by name.
        selection: name of the selection, for messages.
        sha256: of the rows when the selection was made (:func:`fingerprint`).

    Returns:
        The rows.

    Raises:
        DataError: a row is missing, or its words have changed since the selection was made.
    """
    found: dict[str, Row] = {}
    origins: dict[str, str] = {}
    for name in sorted({row_id.split("/")[0] for row_id in ids}):
        read_set = read(name)
        origins[name] = read_set.origin
        found.update((row["id"], row) for row in read_set.rows)
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
