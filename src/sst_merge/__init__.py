"""SST-Merge: merge LoRA adapters so that safety arrives and skills stay.

Names are imported on first use (PEP 562), so that ``import sst_merge`` costs nothing: torch, transformers and
peft load only when something needs them.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from ._moved import install as _answer_for_old_names
from ._version import __version__

if TYPE_CHECKING:
    from .core_space import CoreSpace
    from .data_loader import Batch, DataSource, encode_rows, load_rows
    from .evaluation import evaluate_models
    from .fim_calculator import (
        Fisher,
        compute_fim_benign,
        compute_fim_harm,
        lora_gradient_variance_approximation,
        vila_parameter_identification,
    )
    from .gevp_solver import GEVPResult, compute_safety_efficiency, select_safety_subspace, solve_gevp
    from .inspection import Inspection
    from .inspection.inspect_adapters import inspect_adapters
    from .lora_utils import Adapter, LoraFactors
    from .merging import MergeInputs, MergeResult, merge, merge_lora_adapters
    from .methods import merge_method
    from .sst import optimize_merge_coefficients, project_to_safety_subspace

__all__ = [
    "Adapter",
    "Batch",
    "CoreSpace",
    "DataSource",
    "Fisher",
    "GEVPResult",
    "Inspection",
    "LoraFactors",
    "MergeInputs",
    "MergeResult",
    "__version__",
    "compute_fim_benign",
    "compute_fim_harm",
    "compute_safety_efficiency",
    "encode_rows",
    "evaluate_models",
    "inspect_adapters",
    "load_rows",
    "lora_gradient_variance_approximation",
    "merge",
    "merge_lora_adapters",
    "merge_method",
    "optimize_merge_coefficients",
    "project_to_safety_subspace",
    "select_safety_subspace",
    "solve_gevp",
    "vila_parameter_identification",
]

_answer_for_old_names()


def __getattr__(name: str) -> object:
    """Import a public name from its room on first use; ``tests/test_public_names.py`` compares the lists.

    Raises:
        AttributeError: the package has no such name.
    """
    room: ModuleType
    match name:
        case "Adapter" | "LoraFactors":
            from . import lora_utils as room
        case "CoreSpace":
            from . import core_space as room
        case "Batch" | "DataSource" | "encode_rows" | "load_rows":
            from . import data_loader as room
        case "Fisher" | "compute_fim_benign" | "compute_fim_harm":
            from . import fim_calculator as room
        case "lora_gradient_variance_approximation" | "vila_parameter_identification":
            from . import fim_calculator as room
        case "GEVPResult" | "compute_safety_efficiency" | "select_safety_subspace" | "solve_gevp":
            from . import gevp_solver as room
        case "Inspection" | "inspect_adapters":
            from . import inspection as room
        case "merge_method":
            from . import methods as room
        case "optimize_merge_coefficients" | "project_to_safety_subspace":
            from . import sst as room
        case "MergeInputs" | "MergeResult" | "merge" | "merge_lora_adapters":
            from . import merging as room
        case "evaluate_models":
            from . import evaluation as room
        case _:
            raise AttributeError(f"module 'sst_merge' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(room, name)


def __dir__() -> list[str]:
    return sorted(__all__)
