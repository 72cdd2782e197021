"""Shared bases, coordinates, lifting back, truncation: everything between factors and core matrices."""

from .bases import align_bases, shared_bases
from .leading import all_triplets, leading_triplets
from .space import CoreSpace, Truncation, common_layout

__all__ = [
    "CoreSpace",
    "Truncation",
    "align_bases",
    "all_triplets",
    "common_layout",
    "leading_triplets",
    "shared_bases",
]
