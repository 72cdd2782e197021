"""What is to be trained before merges can be measured, and a cell that trains it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..worlds.world import ALIGNED, BASES, SAFETY, Artefact
from .cells import Cell
from .setups import world_of

__all__ = ["artefacts_of", "training_cell", "training_cells", "training_stages"]


def artefacts_of(problem: Mapping[str, Any]) -> list[Artefact]:
    """What a merge problem is made of.

    Args:
        problem: the ``problem`` section of a cell's parameters.

    Returns:
        Bases first; on the aligned base both, for methods read what alignment changed.
    """
    base = problem["base"]
    names = [*problem["skills"], *([SAFETY] if problem["safety"] else [])]
    bases = [Artefact(name) for name in (BASES if base == ALIGNED else (base,))]
    return bases + [Artefact(base, name, problem["adapter_seed"]) for name in names]


def training_cells(problems: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """What is missing.

    Args:
        problems: of the cells that are to be measured.

    Returns:
        Cells of kind ``training``, bases first, each artefact once.
    """
    found: dict[str, Cell] = {}
    for problem in problems:
        world = problem["world"]
        for artefact in artefacts_of(problem):
            if world_of(world).find(artefact) is None:
                parameters = {
                    "world": world,
                    "base": artefact.base,
                    "adapter": artefact.adapter,
                    "seed": artefact.seed,
                }
                cell = Cell("training", f"{artefact}, world {' '.join(map(str, world.values()))}", parameters)
                found.setdefault(cell.key, cell)
    return sorted(found.values(), key=lambda cell: cell.parameters["adapter"] is not None)


def training_stages(cells: Sequence[Cell]) -> list[list[Cell]]:
    """At most two stages: what waits for nothing, then adapters of bases that are trained in the first.

    A base keeps one process busy for minutes; adapters of other bases are trained beside it.

    Args:
        cells: of :func:`training_cells`.

    Returns:
        Stages without empty ones, bases first in theirs.
    """

    def base_of(cell: Cell) -> tuple[str, str]:
        return str(cell.parameters["world"]), cell.parameters["base"]

    untrained = {base_of(cell) for cell in cells if cell.parameters["adapter"] is None}
    waiting = [cell for cell in cells if cell.parameters["adapter"] is not None and base_of(cell) in untrained]
    ready = [cell for cell in cells if cell not in waiting]
    return [stage for stage in (ready, waiting) if stage]


def training_cell(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell of kind ``training`` does: make sure that an artefact is there, and its base.

    Args:
        parameters: ``world``, ``base``, ``adapter`` and ``seed``.

    Returns:
        ``found``, true.
    """
    artefact = Artefact(parameters["base"], parameters["adapter"], parameters["seed"])
    return {"found": world_of(parameters["world"]).make(artefact).is_dir()}
