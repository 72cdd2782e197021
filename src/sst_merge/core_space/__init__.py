"""Shared bases, coordinates, lifting back, truncation: everything between factors and core matrices."""

from .bases import align_bases, shared_bases
from .space import CoreSpace, Truncation, common_layout
from .spectrum import ThinSVD, effective_rank, numerical_rank, rank_for_energy, thin_svd

__all__ = [
    "CoreSpace",
    "ThinSVD",
    "Truncation",
    "align_bases",
    "common_layout",
    "effective_rank",
    "numerical_rank",
    "rank_for_energy",
    "shared_bases",
    "thin_svd",
]
