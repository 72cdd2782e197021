"""What a merge method gets, needs and promises, and where methods are found."""

from .contract import MergeMethod, MethodOptions, Needs, Promises, merge_method
from .layer import Layer, PartlyFormed
from .problem import MergeProblem, Prepared
from .registry import ENTRY_POINT_GROUP, available_methods, get_method, parse_options

__all__ = [
    "ENTRY_POINT_GROUP",
    "Layer",
    "MergeMethod",
    "MergeProblem",
    "MethodOptions",
    "Needs",
    "PartlyFormed",
    "Prepared",
    "Promises",
    "available_methods",
    "get_method",
    "merge_method",
    "parse_options",
]
