"""A small real world with ground truth: synthetic language, models, adapters, exact measures."""

from .lab import Lab, build_lab, load_lab
from .recipe import DEFAULT_RECIPE, Recipe
from .world import Sample, World

__all__ = ["DEFAULT_RECIPE", "Lab", "Recipe", "Sample", "World", "build_lab", "load_lab"]
