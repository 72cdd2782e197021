"""Shared bases, coordinates, lifting back, truncation: everything between factors and core matrices."""

from .bases import align_bases
from .leading import all_triplets, leading_triplets
from .side_by_side import side_by_side
from .space import CoreSpace, Truncation
from .spectrum import ThinSVD, effective_rank, numerical_rank, rank_for_energy, thin_svd
from .stacked import StackedSpace

__all__ = [
    "CoreSpace",
    "StackedSpace",
    "ThinSVD",
    "Truncation",
    "align_bases",
    "all_triplets",
    "effective_rank",
    "leading_triplets",
    "numerical_rank",
    "rank_for_energy",
    "side_by_side",
    "thin_svd",
]
