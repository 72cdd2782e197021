"""What adapters are and where they collide, measured from their factors alone, before any merge."""

from .adapter_figures import AdapterFigures, UpdateFigures
from .inspect_adapters import Inspection, inspect_adapters
from .names import layer_of, shortened, target_of
from .pair_figures import Collision, PairFigures, SharedDirections
from .signs import SignCounts
from .sum_figures import ENERGIES, RankSpread, SumFigures, SummedUpdate

__all__ = [
    "ENERGIES",
    "AdapterFigures",
    "Collision",
    "Inspection",
    "PairFigures",
    "RankSpread",
    "SharedDirections",
    "SignCounts",
    "SumFigures",
    "SummedUpdate",
    "UpdateFigures",
    "inspect_adapters",
    "layer_of",
    "shortened",
    "target_of",
]
