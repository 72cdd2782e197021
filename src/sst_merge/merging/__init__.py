"""Streams modules through a merge method, and writes the result with its provenance.

Names are imported on first use (PEP 562): the configuration (``merging.config``) must be readable without torch.
"""

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import merge, merge_lora_adapters
    from .delta import compress_delta
    from .engine import merged_modules, module_generator
    from .inputs import MergeInputs
    from .plan import MergePlan, plan_merge
    from .report import AdapterRecord, MergeReport, ModuleFigures
    from .result import FileText, MergeResult
    from .run import merge_in_memory, merge_problem, merge_to_folder
    from .settings import MergeSettings
    from .workers import number_of_workers

__all__ = [
    "AdapterRecord",
    "FileText",
    "MergeInputs",
    "MergePlan",
    "MergeReport",
    "MergeResult",
    "MergeSettings",
    "ModuleFigures",
    "compress_delta",
    "merge",
    "merge_in_memory",
    "merge_lora_adapters",
    "merge_problem",
    "merge_to_folder",
    "merged_modules",
    "module_generator",
    "number_of_workers",
    "plan_merge",
]


def __getattr__(name: str) -> object:
    home: ModuleType
    match name:
        case "merge" | "merge_lora_adapters":
            from . import api as home
        case "compress_delta":
            from . import delta as home
        case "merged_modules" | "module_generator":
            from . import engine as home
        case "MergeInputs":
            from . import inputs as home
        case "MergePlan" | "plan_merge":
            from . import plan as home
        case "AdapterRecord" | "MergeReport" | "ModuleFigures":
            from . import report as home
        case "FileText" | "MergeResult":
            from . import result as home
        case "merge_in_memory" | "merge_problem" | "merge_to_folder":
            from . import run as home
        case "MergeSettings":
            from . import settings as home
        case "number_of_workers":
            from . import workers as home
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(home, name)
