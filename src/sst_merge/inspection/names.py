"""What a module name says: which layer it belongs to, and what part of the layer it is."""

from collections.abc import Iterable

__all__ = ["layer_of", "shortened", "target_of"]


def target_of(module: str) -> str:
    """The last part of the name, as PEFT's target_modules call it.

    Args:
        module: such as ``model.layers.3.self_attn.q_proj``.

    Returns:
        Such as ``q_proj``.
    """
    return module.rpartition(".")[2]


def layer_of(module: str) -> str:
    """The name up to its first number; the whole name where there is none.

    Args:
        module: such as ``model.layers.3.self_attn.q_proj``.

    Returns:
        Such as ``model.layers.3``.
    """
    parts = module.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: index + 1])
    return module


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Names without the parts that all of them begin with.

    Args:
        names: dotted module or layer names.

    Returns:
        Name → its own part, at least the last one.
    """
    split = {name: name.split(".") for name in names}
    common = 0
    for column in zip(*(parts[:-1] for parts in split.values()), strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return {name: ".".join(parts[common:]) for name, parts in split.items()}
