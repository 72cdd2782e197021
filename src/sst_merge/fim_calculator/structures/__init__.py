"""Fisher structures of one layer: a file holds an operator, its running sums, and says of what form it is.

A new file in this folder is found by itself; ``docs/extending/structure.md`` shows one.
"""

from .base import Form, LayerFisher, require_finite, require_gram, require_shape
from .block import BlockFisher
from .diagonal import DiagonalFisher
from .kronecker import KroneckerFisher
from .lowrank import SampleGradients
from .registry import available_structures, find_structure, fisher_structure
from .sums import RunningSums, SampleSums

__all__ = [
    "BlockFisher",
    "DiagonalFisher",
    "Form",
    "KroneckerFisher",
    "LayerFisher",
    "RunningSums",
    "SampleGradients",
    "SampleSums",
    "available_structures",
    "find_structure",
    "fisher_structure",
    "require_finite",
    "require_gram",
    "require_shape",
]
