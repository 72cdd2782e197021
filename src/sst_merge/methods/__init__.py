"""What a merge method gets, needs and promises, and where methods are found."""

from .contract import (
    MergeMethod,
    MethodOptions,
    Needs,
    Promises,
    Reads,
    StrengthOptions,
    merge_method,
    option_faults,
    parse_options,
)
from .layer import Layer, PartlyFormed, named_generator
from .option_help import OptionHelp, option_help, option_names
from .problem import MergeProblem, Prepared, Refuses
from .registry import ENTRY_POINT_GROUP, available_methods, get_method
from .sweeps import SAFETY_WEIGHT, MethodSweep, TwoStageSweep

__all__ = [
    "ENTRY_POINT_GROUP",
    "SAFETY_WEIGHT",
    "Layer",
    "MergeMethod",
    "MergeProblem",
    "MethodOptions",
    "MethodSweep",
    "Needs",
    "OptionHelp",
    "PartlyFormed",
    "Prepared",
    "Promises",
    "Reads",
    "Refuses",
    "StrengthOptions",
    "TwoStageSweep",
    "available_methods",
    "get_method",
    "merge_method",
    "named_generator",
    "option_faults",
    "option_help",
    "option_names",
    "parse_options",
]
