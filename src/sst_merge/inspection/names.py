"""What a module name says: which layer it belongs to, and what part of the layer it is."""

from collections.abc import Iterable

__all__ = ["layer_of", "shortened", "target_of"]


def target_of(module: str) -> str:
    """The last part of a module's name, such as ``q_proj``, as PEFT's target_modules call it."""
    return module.rpartition(".")[2]


def layer_of(module: str) -> str:
    """The name up to its first number, such as ``model.layers.3``; the whole name where there is none."""
    parts = module.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: index + 1])
    return module


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Name → its own part (at least the last one), without the parts that all names begin with."""
    split = {name: name.split(".") for name in names}
    common = 0
    for column in zip(*(parts[:-1] for parts in split.values()), strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return {name: ".".join(parts[common:]) for name, parts in split.items()}
