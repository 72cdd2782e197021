"""A small real world with ground truth: synthetic language, models, adapters, exact measures.

What needs torch is imported on first use (PEP 562): a list of suites asks for the lab's suites, and for no model.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .recipe import DEFAULT_RECIPE, Recipe
from .world import Sample, World

if TYPE_CHECKING:
    from .build import build_lab
    from .lab import Lab, load_lab

__all__ = ["DEFAULT_RECIPE", "Lab", "Recipe", "Sample", "World", "build_lab", "load_lab"]

_HOMES = {"Lab": ".lab", "load_lab": ".lab", "build_lab": ".build"}


def __getattr__(name: str) -> object:
    """Import a name that needs torch on first use.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name], __name__), name)
