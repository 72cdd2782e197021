"""Finished work on disk: one JSON file per cell, named by everything that its result depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_file

__all__ = ["Cell", "CellStore", "canonical"]

_FORMAT = "sst_merge.experiments.cell/1"


def canonical(values: object) -> str:
    """Plain values as one line of JSON that is the same for equal values.

    Args:
        values: what JSON knows, without NaN.

    Returns:
        The line.
    """
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One piece of work, small enough to be done again and large enough to be worth a file.

    Attributes:
        kind: which function of :mod:`.work` does it.
        title: for people.
        parameters: plain values that the function gets.
        depends: what else the result depends on: digests of artefacts and code, versions.
    """

    kind: str
    title: str
    parameters: Mapping[str, Any]
    depends: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Twenty hexadecimal digits that change with kind, parameters and dependencies, not with the title."""
        content = canonical([_FORMAT, self.kind, self.parameters, self.depends])
        return hashlib.sha256(content.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class CellStore:
    """A folder of finished cells.

    Attributes:
        folder: made when the first cell is saved.
    """

    folder: Path

    def path(self, cell: Cell) -> Path:
        """Where a cell lies.

        Args:
            cell: finished or not.

        Returns:
            The file.
        """
        return self.folder / cell.kind / f"{cell.key}.json"

    def has(self, cell: Cell) -> bool:
        """Whether a cell is finished.

        Args:
            cell: any.

        Returns:
            True where its file is there.
        """
        return self.path(cell).is_file()

    def load(self, cell: Cell) -> dict[str, Any]:
        """A finished cell.

        Args:
            cell: finished.

        Returns:
            Everything in the file: ``result``, ``seconds`` of processor time, ``run``.

        Raises:
            DataError: it is not finished, or the file is damaged.
        """
        path = self.path(cell)
        try:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{cell.title}: no finished cell at {path}; run the experiment first") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no JSON ({error}); remove the file and run the experiment again") from error
        if kept.get("format") != _FORMAT or "result" not in kept:
            raise DataError(f"{path}: no cell of format {_FORMAT}; remove the file and run the experiment again")
        return kept

    def save(self, cell: Cell, result: object, *, seconds: float, run: Mapping[str, Any]) -> Path:
        """Write a finished cell, whole or not at all.

        Args:
            cell: what was done.
            result: plain values.
            seconds: of processor time that it took; all work is done by one thread.
            run: where and by what it was done; not part of the result.

        Returns:
            The file.
        """
        path = self.path(cell)
        kept = {
            "format": _FORMAT,
            "kind": cell.kind,
            "title": cell.title,
            "parameters": dict(cell.parameters),
            "depends": dict(cell.depends),
            "result": result,
            "seconds": round(seconds, 3),
            "run": dict(run),
        }
        with atomic_file(path) as aside:
            aside.write_text(canonical(kept) + "\n", encoding="utf-8")
        return path
