"""Shared bases, coordinates, lifting back, truncation: everything between factors and core matrices."""

from .bases import align_bases, shared_bases
from .space import CoreSpace, Truncation, common_layout

__all__ = ["CoreSpace", "Truncation", "align_bases", "common_layout", "shared_bases"]
