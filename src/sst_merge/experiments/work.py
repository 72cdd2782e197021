"""What cells do: plain parameters in, plain results out, the same bits for the same parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from .cost import cost_cell
from .interference_work import interference_cell
from .single_models import single_models_cell
from .sweep import sweep_cell
from .training import training_cell

__all__ = ["WORK"]

WORK: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "training": training_cell,
    "alone": single_models_cell,
    "sweep": sweep_cell,
    "interference": interference_cell,
    "cost": cost_cell,
}
"""Kind of cell → what it does."""
