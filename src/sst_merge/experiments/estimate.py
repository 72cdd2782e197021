"""How long cells will take: from cells that are finished here, or else from figures measured once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .cells import Cell, CellStore

__all__ = ["Estimate", "estimate", "prompts_of", "work_seconds"]

# Processor time measured on two shared cores of an x86-64 server, one thread a process; it stands in where no finished
# cell says better. A prompt is a row of a batch of 64 through the lab's model, the other answer looked for included.
_PER_PROMPT = 0.0018
_PER_CELL: Mapping[str, float] = {"alone": 1.0, "sweep": 1.5, "interference": 2.0, "cost": 1.0, "adapter": 30.0}
_BASE_TRAINING = 600.0
_PREPARED: Mapping[str, float] = {
    "sst": 3.0, "alignguard_lora": 3.0, "ada_merging": 60.0, "layer_interpolation": 60.0, "regmean": 6.0,
    "led_merging": 15.0, "safe_delta": 15.0, "fisher_merging": 4.0, "benign_null_space": 5.0, "knots": 4.0, "ties": 3.0,
}  # fmt: skip
_REFINED = 0.3  # a step of SST-Merge's refinement, at every strength


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        cells: of this kind.
        finished: of them in the store.
        seconds: of processor time for the others.
        known: whether finished cells of this machine say so.
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
    return _prompts(cell.kind, cell.parameters)


def _prompts(kind: str, p: Mapping[str, Any]) -> int:
    if kind == "sweep":
        return len(p["swept"]["values"]) * (sum(p["dev"].values()) + sum(p["test"].values()))
    if kind == "alone":
        own = sum(p["test"][kind] for kinds in p["own"].values() for kind in kinds)
        return own + (len(p["models"]) - len(p["own"])) * (sum(p["dev"].values()) + sum(p["test"].values()))
    if kind == "interference":
        tasks, stages = len(p["problem"]["skills"]), 1 + p["with_safety"]
        dev = len(p["staged"]["strengths"]) * tasks + 2 * len(p["staged"]["shares"]) * p["with_safety"]
        return p["dev"] * dev + p["test"] * stages * (tasks + 4)
    return 0


def work_seconds(cell: Cell) -> float:
    """Seconds of one worker, by the figures measured once.

    Args:
        cell: any.

    Returns:
        A rough number.
    """
    method = _method(cell.parameters)
    if cell.kind == "adapter":
        return _PER_CELL["adapter"] if cell.parameters["name"] else _BASE_TRAINING
    extra = _PREPARED.get(method, 0.0) if method else 0.0
    swept = cell.parameters.get("swept", {})
    strengths = 2 if cell.kind == "cost" else len(swept.get("values", ()))
    extra += _REFINED * swept.get("options", {}).get("refine", 0) * strengths
    if cell.kind == "interference":
        extra *= len(cell.parameters["problem"]["skills"]) / 4
    return _PER_CELL[cell.kind] + extra + _PER_PROMPT * prompts_of(cell)


def _method(parameters: Mapping[str, Any]) -> str | None:
    found = parameters.get("swept", parameters.get("staged", {})).get("method")
    return None if found is None else str(found)


def estimate(cells: Sequence[Cell], store: CellStore) -> dict[str, Estimate]:
    """What is left to do, kind by kind.

    Args:
        cells: planned; equal ones count once.
        store: finished cells, whose seconds correct the figures by kind and method.

    Returns:
        Kind → estimate.
    """
    ratios = _measured_ratios(store)
    found = {}
    unique = list({cell.key: cell for cell in cells}.values())
    for kind in dict.fromkeys(cell.kind for cell in unique):
        of_kind = [cell for cell in unique if cell.kind == kind]
        todo = [cell for cell in of_kind if not store.has(cell)]
        general = [ratio for (k, _), of in ratios.items() if k == kind for ratio in of]
        seconds = 0.0
        for cell in todo:
            own = ratios.get((kind, _method(cell.parameters))) or general or [1.0]
            seconds += median(own) * work_seconds(cell)
        found[kind] = Estimate(len(of_kind), len(of_kind) - len(todo), seconds, bool(general))
    return found


def _measured_ratios(store: CellStore) -> dict[tuple[str, str | None], list[float]]:
    """(kind, method) → seconds of finished cells over what the figures say."""
    found: dict[tuple[str, str | None], list[float]] = {}
    for path in sorted(store.folder.glob("*/*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        cell = Cell(kept["kind"], kept["title"], kept["parameters"])
        found.setdefault((cell.kind, _method(cell.parameters)), []).append(kept["seconds"] / work_seconds(cell))
    return found
