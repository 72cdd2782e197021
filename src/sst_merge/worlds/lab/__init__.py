"""A small real world with ground truth: synthetic language, models, adapters, exact measures.

What needs torch is imported on first use (PEP 562): a list of suites asks for the lab's suites, and for no model.
"""

from typing import TYPE_CHECKING

from .recipe import DEFAULT_RECIPE, Recipe
from .world import Sample, World

if TYPE_CHECKING:
    from .lab import Lab, build_lab, load_lab

__all__ = ["DEFAULT_RECIPE", "Lab", "Recipe", "Sample", "World", "build_lab", "load_lab"]


def __getattr__(name: str) -> object:
    """Import a name that needs torch on first use.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in {"Lab", "build_lab", "load_lab"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    from . import lab

    found = getattr(lab, name)
    globals().update({each: getattr(lab, each) for each in ("Lab", "build_lab", "load_lab")})
    return found
