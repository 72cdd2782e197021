"""How long cells will take: as finished cells of the same kind and method say, or else by a plain guess."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from ..methods import get_method
from .cells import Cell, CellStore

__all__ = ["Estimate", "Expectation", "prompts_of"]

# The guess, in seconds of one slow core; finished cells correct it, so only its order of magnitude matters.
_CELL, _PROMPT = 1.0, 0.002
_LOOKS_AT_DATA = 4.0  # a method that runs the model before it merges
_REFINEMENT = 0.3  # one step of gradient descent, at every strength
_TEACHERS = 50  # such steps come to about the default's four passes
_TRAINED_ADAPTER, _TRAINED_BASE = 30.0, 600.0


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        cells: of this kind.
        finished: of them in the store.
        seconds: of processor time for the others.
        known: whether finished cells of this kind say so.
    """

    cells: int
    finished: int
    seconds: float
    known: bool


def prompts_of(cell: Cell) -> int:
    """Prompts that a cell sends through the model.

    Args:
        cell: any.

    Returns:
        Their number, without those of calibration.
    """
    p = cell.parameters
    if cell.kind == "sweep":
        return len(p["swept"]["values"]) * _asked(p)
    if cell.kind == "alone":
        own = sum(p["test"][kind] for kinds in p["own"].values() for kind in kinds)
        return own + (len(p["models"]) - len(p["own"])) * _asked(p)
    if cell.kind == "interference":
        tasks, stages = len(p["problem"]["skills"]), 1 + p["with_safety"]
        dev = len(p["staged"]["strengths"]) * tasks + 2 * len(p["staged"]["shares"]) * p["with_safety"]
        return int(p["dev"] * dev + p["test"] * stages * (tasks + 4))
    return 0


def _asked(p: Mapping[str, Any]) -> int:
    return sum(p["dev"].values()) + sum(p["test"].values())


def _merge(cell: Cell) -> Mapping[str, Any]:
    found: Mapping[str, Any] = cell.parameters.get("swept", cell.parameters.get("staged", {}))
    return found


def _guess(cell: Cell) -> float:
    """Seconds without any finished cell."""
    if cell.kind == "training":
        return _TRAINED_ADAPTER if cell.parameters["adapter"] else _TRAINED_BASE
    merge = _merge(cell)
    seconds = _CELL + _PROMPT * prompts_of(cell)
    if merge and get_method(merge["method"]).needs.data:
        seconds += _LOOKS_AT_DATA
    options = merge.get("options", {})
    taught = bool(merge) and merge["method"] == "sst" and "inputs" not in options
    refine = options.get("refine", "teachers" if taught else 0)
    steps = _TEACHERS if refine == "teachers" else refine
    return seconds + _REFINEMENT * steps * len(merge.get("values", ()))


class Expectation:
    """What cells will take, by those that a store has.

    Args:
        store: of finished cells.
    """

    def __init__(self, store: CellStore) -> None:
        self._store = store

    def seconds(self, cell: Cell) -> float:
        """Seconds of one worker.

        Args:
            cell: any.

        Returns:
            The guess, corrected by the median of finished cells of the same kind and method, or else of the same kind.
        """
        ratios = self._ratios.get(_alike(cell)) or self._of_kind(cell.kind) or [1.0]
        return median(ratios) * _guess(cell)

    def outline(self, cells: Sequence[Cell]) -> dict[str, Estimate]:
        """What is left to do, kind by kind.

        Args:
            cells: planned; equal ones count once.

        Returns:
            Kind → estimate.
        """
        found = {}
        unique = list({cell.key: cell for cell in cells}.values())
        for kind in dict.fromkeys(cell.kind for cell in unique):
            of_kind = [cell for cell in unique if cell.kind == kind]
            todo = [cell for cell in of_kind if not self._store.has(cell)]
            known = bool(self._of_kind(kind))
            found[kind] = Estimate(len(of_kind), len(of_kind) - len(todo), sum(map(self.seconds, todo)), known)
        return found

    def _of_kind(self, kind: str) -> list[float]:
        return [ratio for (of, _), ratios in self._ratios.items() if of == kind for ratio in ratios]

    @cached_property
    def _ratios(self) -> dict[tuple[str, str], list[float]]:
        """Kind and method → seconds of finished cells over the guess."""
        found: dict[tuple[str, str], list[float]] = {}
        for cell, seconds in _finished(self._store):
            found.setdefault(_alike(cell), []).append(seconds / _guess(cell))
        return found


def _alike(cell: Cell) -> tuple[str, str]:
    return cell.kind, str(_merge(cell).get("method"))


def _finished(store: CellStore) -> Iterator[tuple[Cell, float]]:
    for path in sorted(store.folder.glob("*/*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        yield Cell(kept["kind"], kept["title"], kept["parameters"]), kept["seconds"]
