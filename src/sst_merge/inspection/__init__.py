"""What adapters are and where they collide, measured from their factors alone, before any merge."""

from .adapter_figures import AdapterFigures
from .inspect_adapters import Inspection, inspect_adapters
from .names import layer_of, shortened, target_of
from .pair_figures import Collision, PairFigures
from .sum_figures import ENERGIES

__all__ = [
    "ENERGIES",
    "AdapterFigures",
    "Collision",
    "Inspection",
    "PairFigures",
    "inspect_adapters",
    "layer_of",
    "shortened",
    "target_of",
]
