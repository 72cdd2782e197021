"""Streams modules through a merge method, and writes the result with its provenance."""

from .api import merge, merge_to_folder
from .engine import MergedModule, merged_modules, module_generator
from .plan import MergePlan, ModulePlan, plan_merge
from .report import AdapterRecord, MergeReport, ModuleFigures
from .result import FileText, MergeResult

__all__ = [
    "AdapterRecord",
    "FileText",
    "MergePlan",
    "MergeReport",
    "MergeResult",
    "MergedModule",
    "ModuleFigures",
    "ModulePlan",
    "merge",
    "merge_to_folder",
    "merged_modules",
    "module_generator",
    "plan_merge",
]
