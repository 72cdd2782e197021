"""A PEFT folder is a dict of exact low-rank updates; every format quirk ends in this room."""

from .factors import LoraFactors, ModuleKind

__all__ = ["LoraFactors", "ModuleKind"]
