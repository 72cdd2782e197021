"""How long cells will take: as finished cells of the same kind and method say, or else by what their world costs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

from ..methods import get_method
from ..sst.teacher_refine import PASSES
from ..worlds.costs import Costs, TellsCosts
from ..worlds.world import Artefact
from .cells import Cell, CellStore, canonical
from .setups import world_of

__all__ = ["Estimate", "Expectation", "prompts_of"]

_UNKNOWN = Costs(cell=1.0, prompt=0.002, learning=0.006, batch=8, training=lambda _: 100.0)
"""Of a world that cannot tell: which cell is dearer than which, and nothing else."""

_LOOK = 0.5  # of a pass forward and back, what a pass forward takes
_CLOSED_FORM = 2.5  # such passes of SST-Merge before its knob is turned
# Four teachers' passes over what is not held out, then over all prompts, with what the teachers say and the looks.
_TAUGHT = 2.0 * PASSES + 6.0


Source = Literal["finished cells", "counted", "not known yet"]


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        cells: of this kind.
        finished: of them in the store.
        seconds: of processor time for the others; None where nothing is known.
        source: what says so: finished cells of this kind, or the world's costs.
    """

    cells: int
    finished: int
    seconds: float | None
    source: Source


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


def _guess(cell: Cell, costs: Costs) -> float:
    """Seconds without any finished cell."""
    p = cell.parameters
    if cell.kind == "training":
        return costs.training(Artefact(p["base"], p["adapter"], p["seed"]))
    learnt = _learnt(cell, _merge(cell), costs.batch) if _merge(cell) else 0.0
    return costs.cell + costs.prompt * prompts_of(cell) + costs.learning * learnt


def _learnt(cell: Cell, merge: Mapping[str, Any], batch: int) -> float:
    """How many calibration prompts a cell goes through forward and back, each as often as it does."""
    problem, options = cell.parameters["problem"], merge.get("options", {})
    method, prompts = get_method(merge["method"]), problem["harm"] + problem["benign"]
    if method.name == "sst":
        refine = options.get("refine", "teachers" if "inputs" not in options else 0)
        each = _TAUGHT * _taught_prompts(problem) if refine == "teachers" else 2.0 * batch * refine
        return _CLOSED_FORM * prompts + each * _values(cell, merge)
    if not method.needs.data:
        return 0.0
    reads = method.reads
    sets = {"common": 2, "all": 2, "adapters": len(problem["skills"]) + 1, "skills": len(problem["skills"])}
    steps = 0 if reads.steps is None else options.get(reads.steps, method.options.model_fields[reads.steps].default)
    return (reads.gradients + _LOOK * reads.forward) * prompts + steps * batch * sets.get(reads.of, 1)


def _taught_prompts(problem: Mapping[str, Any]) -> float:
    """Of one pass of teachers: of the common prompts it takes no more than of one skill."""
    own = problem["skill_share"] * problem["benign"]
    common = problem["benign"] - own
    return float(problem["harm"] + own + (min(common, own / len(problem["skills"])) if own else common))


def _values(cell: Cell, merge: Mapping[str, Any]) -> int:
    """How often a cell makes its merge anew."""
    if cell.kind == "cost":
        return 2
    # Of two stages the skills are merged once, and with safety again at every share.
    return 1 + cell.parameters["with_safety"] * len(merge["shares"]) if "shares" in merge else len(merge["values"])


class Expectation:
    """What cells will take, by what their world costs and by the cells that a store has.

    Args:
        store: of finished cells.
        cells: planned.
    """

    def __init__(self, store: CellStore, cells: Sequence[Cell]) -> None:
        self._store = store
        self._cells = list({cell.key: cell for cell in cells}.values())

    def seconds(self, cell: Cell) -> float:
        """Seconds of one worker, or in no unit at all where nothing is known of its world.

        Args:
            cell: one of those that are planned.

        Returns:
            What its world costs, corrected by the median of finished cells of the same kind and method, or else of the
            same kind.
        """
        ratios = self._ratios.get(_alike(cell)) or self._of_kind(cell.kind) or [1.0]
        return median(ratios) * _guess(cell, self._costs[_world(cell)] or _UNKNOWN)

    def outline(self) -> dict[str, Estimate]:
        """What is left to do, kind by kind.

        Returns:
            Kind → estimate.
        """
        found = {}
        for kind in dict.fromkeys(cell.kind for cell in self._cells):
            of_kind = [cell for cell in self._cells if cell.kind == kind]
            todo = [cell for cell in of_kind if not self._store.has(cell)]
            seconds: float | None = sum(map(self.seconds, todo))
            source: Source = "finished cells"
            if not self._of_kind(kind):
                source = "counted"
                if any(self._costs[_world(cell)] is None for cell in todo):
                    seconds, source = None, "not known yet"
            found[kind] = Estimate(len(of_kind), len(of_kind) - len(todo), seconds, source)
        return found

    def _of_kind(self, kind: str) -> list[float]:
        return [ratio for (of, _), ratios in self._ratios.items() if of == kind for ratio in ratios]

    @cached_property
    def _costs(self) -> dict[str, Costs | None]:
        """World → what it costs."""
        found = {}
        for world in dict.fromkeys(map(_world, self._cells)):
            opened = world_of(json.loads(world))
            found[world] = opened.costs() if isinstance(opened, TellsCosts) else None
        return found

    @cached_property
    def _ratios(self) -> dict[tuple[str, str], list[float]]:
        """Kind and method → seconds of finished cells over the guess."""
        found: dict[tuple[str, str], list[float]] = {}
        for cell, seconds in _finished(self._store):
            if _world(cell) in self._costs:
                guess = _guess(cell, self._costs[_world(cell)] or _UNKNOWN)
                found.setdefault(_alike(cell), []).append(seconds / guess)
        return found


def _world(cell: Cell) -> str:
    return canonical(cell.parameters.get("world") or cell.parameters["problem"]["world"])


def _alike(cell: Cell) -> tuple[str, str]:
    return cell.kind, str(_merge(cell).get("method"))


def _finished(store: CellStore) -> Iterator[tuple[Cell, float]]:
    for path in sorted(store.folder.glob("*/*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        yield Cell(kept["kind"], kept["title"], kept["parameters"]), kept["seconds"]
