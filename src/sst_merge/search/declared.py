"""What a method's own options may be, read off their types, ranges and defaults."""

from dataclasses import replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from ..methods import MergeMethod, MethodSweep
from .ranges import Choices, Range

__all__ = ["declared_options", "default_of", "takes_whole_numbers"]

_OPEN_END = 0.05
"""How far inside an end that is excluded the search stays, as a share of the range."""


def declared_options(method: MergeMethod, sweep: MethodSweep) -> list[tuple[str, Range | Choices]]:
    """Options that move by what their own types say, the one that a form fixes left out."""
    varied = {s.knob: s.values for s in method.sweeps if isinstance(s, MethodSweep)}
    found: list[tuple[str, Range | Choices]] = []
    for name, info in method.options.model_fields.items():
        if name == sweep.knob or name in sweep.options:
            continue
        default = default_of(method, name)
        words = _words(info)
        bounds = _bounds(info)
        if words:
            found.append((name, Choices((default, *(word for word in words if word != default)))))
        elif not isinstance(default, int | float):
            continue  # a warm start could not leave it as it is
        elif bounds is not None:
            found.append((name, replace(bounds, low=min(bounds.low, default), high=max(bounds.high, default))))
        elif name in varied:
            ends = (*varied[name], default)
            found.append((name, Range(min(ends), max(ends))))
    return found


def default_of(method: MergeMethod, name: str) -> Any:
    """What an option is where nobody says; None where the method has no such option."""
    found = method.options.model_fields.get(name)
    return None if found is None else found.get_default(call_default_factory=True)


def takes_whole_numbers(method: MergeMethod, name: str) -> bool:
    """Whether an option takes whole numbers alone."""
    info = method.options.model_fields.get(name)
    kinds = () if info is None else _kinds(info.annotation)
    return int in kinds and float not in kinds


def _words(info: FieldInfo) -> tuple[Any, ...]:
    """What a switch or a choice among words may be; nothing where it may be something else as well."""
    kinds = _kinds(info.annotation)
    if kinds == (bool,):
        return (True, False)
    if kinds and all(get_origin(kind) is Literal for kind in kinds):
        return tuple(word for kind in kinds for word in get_args(kind))
    return ()


def _bounds(info: FieldInfo) -> Range | None:
    """The range of a number that is bounded on both sides."""
    kinds = _kinds(info.annotation)
    if kinds not in ((int,), (float,)):
        return None
    low = next((float(m.ge) for m in info.metadata if isinstance(m, Ge)), None)  # type: ignore[arg-type]
    high = next((float(m.le) for m in info.metadata if isinstance(m, Le)), None)  # type: ignore[arg-type]
    above = next((float(m.gt) for m in info.metadata if isinstance(m, Gt)), None)  # type: ignore[arg-type]
    below = next((float(m.lt) for m in info.metadata if isinstance(m, Lt)), None)  # type: ignore[arg-type]
    start, end = low if low is not None else above, high if high is not None else below
    if start is None or end is None:
        return None
    if kinds == (int,):
        return Range(start + (low is None), end - (high is None), whole=True)
    inside = _OPEN_END * (end - start)
    return Range(start + inside * (low is None), end - inside * (high is None))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; one type otherwise."""
    if get_origin(annotation) in {Union, UnionType}:
        return tuple(kind for inner in get_args(annotation) for kind in _kinds(inner) if kind is not type(None))
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    return (annotation,)
