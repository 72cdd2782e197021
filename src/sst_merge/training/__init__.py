"""From a base model and rows to one LoRA adapter: where a safety adapter, or a skill, comes from.

Names are imported on first use (PEP 562): recipe and configuration must be readable without torch.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from .recipe import TrainingRecipe

if TYPE_CHECKING:
    from .mixture import Mixture, read_mixture
    from .plan import TrainingPlan, plan_training
    from .report import TrainingReport
    from .targets import check_targets
    from .train import train_adapter

__all__ = [
    "Mixture",
    "TrainingPlan",
    "TrainingRecipe",
    "TrainingReport",
    "check_targets",
    "plan_training",
    "read_mixture",
    "train_adapter",
]


def __getattr__(name: str) -> object:
    home: ModuleType
    match name:
        case "Mixture" | "read_mixture":
            from . import mixture as home
        case "TrainingPlan" | "plan_training":
            from . import plan as home
        case "TrainingReport":
            from . import report as home
        case "check_targets":
            from . import targets as home
        case "train_adapter":
            from . import train as home
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(home, name)
