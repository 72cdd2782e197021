"""SST-Merge: merge LoRA adapters so that safety arrives and skills stay.

Names are imported on first use (PEP 562), so that ``import sst_merge`` costs nothing: torch, transformers and
peft load only when something needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

_HOMES = {
    "Adapter": "sst_merge.lora_utils",
    "LoraFactors": "sst_merge.lora_utils",
    "CoreSpace": "sst_merge.core_space",
    "Fisher": "sst_merge.fim_calculator",
    "compute_fim_benign": "sst_merge.fim_calculator",
    "compute_fim_harm": "sst_merge.fim_calculator",
    "lora_gradient_variance_approximation": "sst_merge.fim_calculator",
    "vila_parameter_identification": "sst_merge.fim_calculator",
    "GEVPResult": "sst_merge.gevp_solver",
    "solve_gevp": "sst_merge.gevp_solver",
    "compute_safety_efficiency": "sst_merge.gevp_solver",
    "select_safety_subspace": "sst_merge.gevp_solver",
    "Inspection": "sst_merge.inspection",
    "inspect_adapters": "sst_merge.inspection",
    "MergeResult": "sst_merge.merging",
    "merge": "sst_merge.merging",
    "merge_lora_adapters": "sst_merge.merging.lora_adapters",
    "optimize_merge_coefficients": "sst_merge.sst",
    "project_to_safety_subspace": "sst_merge.sst",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 (names are strings; mypy reads the block below)


def __getattr__(name: str) -> object:
    """Import a public name from its room on first use.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'sst_merge' has no attribute {name!r}; it offers {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .core_space import CoreSpace as CoreSpace
    from .fim_calculator import Fisher as Fisher
    from .fim_calculator import compute_fim_benign as compute_fim_benign
    from .fim_calculator import compute_fim_harm as compute_fim_harm
    from .fim_calculator import lora_gradient_variance_approximation as lora_gradient_variance_approximation
    from .fim_calculator import vila_parameter_identification as vila_parameter_identification
    from .gevp_solver import GEVPResult as GEVPResult
    from .gevp_solver import compute_safety_efficiency as compute_safety_efficiency
    from .gevp_solver import select_safety_subspace as select_safety_subspace
    from .gevp_solver import solve_gevp as solve_gevp
    from .inspection import Inspection as Inspection
    from .inspection import inspect_adapters as inspect_adapters
    from .lora_utils import Adapter as Adapter
    from .lora_utils import LoraFactors as LoraFactors
    from .merging import MergeResult as MergeResult
    from .merging import merge as merge
    from .merging.lora_adapters import merge_lora_adapters as merge_lora_adapters
    from .sst import optimize_merge_coefficients as optimize_merge_coefficients
    from .sst import project_to_safety_subspace as project_to_safety_subspace
