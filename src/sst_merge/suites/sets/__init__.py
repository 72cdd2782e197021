"""Public data sets under one schema: from a folder or from the hub, the same rows in the same order."""

from .draw import draw, part_of, shuffled
from .load import SETS, EvalSet, load_set
from .spec import Row, SetSpec

__all__ = ["SETS", "EvalSet", "Row", "SetSpec", "draw", "load_set", "part_of", "shuffled"]
