"""What is to be trained before merges can be measured, and a cell that trains it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..worlds.world import ALIGNED, BASES, SAFETY, Artefact
from .cells import Cell
from .setups import world_of

__all__ = ["artefacts_of", "training_cell", "training_cells", "training_stages"]


def artefacts_of(parameters: Mapping[str, Any]) -> list[Artefact]:
    """What a cell needs: the adapters that are merged, and those of the models that stand beside the merges.

    Args:
        parameters: of a cell with a ``problem``.

    Returns:
        Bases first; on the aligned base both, for methods read what alignment changed.
    """
    problem = parameters["problem"]
    base = problem["base"]
    names = [*problem["skills"], *([SAFETY] if problem["safety"] else [])]
    names += [name for adapters in parameters.get("models", {}).values() for name in adapters]
    bases = [Artefact(name) for name in (BASES if base == ALIGNED else (base,))]
    return bases + [Artefact(base, name, problem["adapter_seed"]) for name in dict.fromkeys(names)]


def training_cells(measured: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """What is missing.

    Args:
        measured: parameters of the cells that are to be measured.

    Returns:
        Cells of kind ``training``, bases first, each artefact once.
    """
    found: dict[str, Cell] = {}
    for parameters in measured:
        world = parameters["problem"]["world"]
        for artefact in artefacts_of(parameters):
            if world_of(world).find(artefact) is None:
                trained = {
                    "world": world,
                    "base": artefact.base,
                    "adapter": artefact.adapter,
                    "seed": artefact.seed,
                }
                cell = Cell("training", f"{artefact}, world {' '.join(map(str, world.values()))}", trained)
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
