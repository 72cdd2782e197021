"""Do adapters fit their base, and one another? Decided from headers, before any heavy work."""

import difflib
from collections.abc import Sequence

from ..errors import AdapterError, BaseModelError, MergeError
from .adapter import Adapter
from .base_index import BaseModelIndex
from .layouts import layer_kinds

__all__ = ["check_against_base", "check_compatible", "check_distinct"]


def check_against_base(adapter: Adapter, index: BaseModelIndex) -> None:
    """Every module of the adapter is a layer of the base, of the same shape.

    A key that matches nothing is the field's silent no-op: most loaders skip it and the model equals the base. A rank
    above min(d_out, d_in) is wasteful but exact, as in PEFT. ``linear`` against ``conv1d`` is an error where all
    modules agree on the wrong one; where an adapter covers both, PEFT's single ``fan_in_fan_out`` flag cannot be right
    for all and :meth:`~.adapter.Adapter.with_kinds` sets it right.

    Raises:
        BaseModelError: a module that the base does not have, or has in another shape or kind.
    """
    where = f"adapter {adapter.name!r}" + (f" ({adapter.path})" if adapter.path is not None else "")
    for module in adapter.modules:
        shape = index.adaptable.get(module)
        if shape is None:
            raise BaseModelError(f"{where}: module {module!r} {_absence(module, index)}; check base_model")
        if adapter.shape(module) != (shape.d_out, shape.d_in):
            raise BaseModelError(
                f"{where}: module {module!r} is {adapter.shape(module)} (d_out, d_in), the base model {index.name!r} "
                f"has {(shape.d_out, shape.d_in)} there; the adapter was trained on another base (or vocabulary)"
            )
        if not adapter.kind(module).fits(shape.kind):
            raise BaseModelError(
                f"{where}: module {module!r} is of kind {adapter.kind(module)}, the base model {index.name!r} has "
                f"{shape.kind} there; the adapter was trained on another base"
            )
    mine = {adapter.kind(module).fan_in_fan_out for module in adapter.modules} - {None}
    real = {index.adaptable[module].kind for module in adapter.modules}
    flags = {kind.fan_in_fan_out for kind in real} - {None}
    if len(mine) == len(flags) == 1 and mine != flags:
        names = ", ".join(sorted(kind.name for kind in real if kind.fan_in_fan_out is not None))
        raise BaseModelError(
            f"{where}: fan_in_fan_out is {mine.pop()}, but all its layers in the base model {index.name!r} are "
            f"{names}; set fan_in_fan_out in its adapter_config.json to {flags.pop()}"
        )


def check_compatible(adapters: Sequence[Adapter], *, assume_same_base: bool = False) -> None:
    """Adapters that are merged share a base, and the shape and kind of every module they have in common.

    Args:
        adapters: adapters of one merge.
        assume_same_base: do not compare ``base_model_name_or_path`` (the same base may lie in two folders).

    Raises:
        AdapterError: two adapters name different bases, or disagree on a module.
    """
    named = [adapter for adapter in adapters if adapter.base_model is not None]
    for other in named[1:]:
        if not assume_same_base and other.base_model != named[0].base_model:
            raise AdapterError(
                f"adapter {named[0].name!r} has base {named[0].base_model!r}, adapter {other.name!r} has "
                f"{other.base_model!r}; expected one base. If both names mean the same weights: assume_same_base=True "
                f"(--assume-same-base)"
            )
    first: dict[str, Adapter] = {}
    for adapter in adapters:
        for module in adapter.modules:
            other = first.setdefault(module, adapter)
            if adapter.shape(module) != other.shape(module):
                raise AdapterError(
                    f"module {module!r} is {other.shape(module)} (d_out, d_in) in adapter {other.name!r} and "
                    f"{adapter.shape(module)} in adapter {adapter.name!r}; expected adapters of one base"
                )
            if adapter.kind(module) != other.kind(module):
                raise AdapterError(
                    f"module {module!r} is {other.kind(module)} in adapter {other.name!r} and {adapter.kind(module)} "
                    f"in adapter {adapter.name!r}; expected adapters of one base. Where only their fan_in_fan_out "
                    f"flags differ, name the base model (--base-model), whose layers decide"
                )


def check_distinct(adapters: Sequence[Adapter]) -> None:
    """There is something to merge, and every adapter can be told apart by its name.

    Raises:
        MergeError: no adapters, something else than an adapter, or two of one name.
    """
    if not adapters:
        raise MergeError("no adapters to merge; give at least one")
    names: set[str] = set()
    for index, adapter in enumerate(adapters):
        if not isinstance(adapter, Adapter):
            raise MergeError(
                f"adapters[{index}] is a {type(adapter).__name__}, expected an Adapter; open it with Adapter.load(path)"
            )
        if adapter.name in names:
            raise MergeError(
                f"two adapters are called {adapter.name!r}; give each its own name (Adapter.load(path, name=...), or "
                f"`name:` in the configuration)"
            )
        names.add(adapter.name)


def _absence(module: str, index: BaseModelIndex) -> str:
    if module in index.others:
        known = ", ".join(sorted(kind.described for kind in layer_kinds()))
        return f"is a {index.others[module]} in the base model {index.name!r}, expected one of: {known}"
    close = difflib.get_close_matches(module, index.adaptable, n=1, cutoff=0.0)
    hint = f"; the nearest name there is {close[0]!r}" if close else ""
    return f"matches no layer of the base model {index.name!r} as transformers builds it here{hint}"
