"""Fisher structures of one layer, one linear operator a file."""

from .base import LayerFisher
from .block import BlockFisher
from .diagonal import DiagonalFisher
from .kronecker import KroneckerFisher
from .lowrank import SampleGradients

__all__ = ["STRUCTURES", "BlockFisher", "DiagonalFisher", "KroneckerFisher", "LayerFisher", "SampleGradients"]

STRUCTURES: dict[str, type[LayerFisher]] = {
    cls.structure: cls for cls in (DiagonalFisher, KroneckerFisher, BlockFisher, SampleGradients)
}
"""Every structure by name."""
