"""What an option means: its sentence in the docstring, its default and its range, all read off the options' model."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["OptionHelp", "option_help", "option_names"]

_ENTRY = re.compile(r"(\w+):\s+(.*)")
_WORDS: Mapping[Any, str] = {float: "any number", int: "any whole number", str: "a name", Path: "a file"}


@dataclass(frozen=True)
class OptionHelp:
    """One option as a user reads about it.

    Attributes:
        name: dotted where it is nested, as ``--set`` takes it.
        default: plain value, as in a report.
        values: what it may be, in words.
        meaning: what it does; empty where its author did not say.
        section: whether it holds options of its own, which follow it.
    """

    name: str
    default: Any
    values: str
    meaning: str
    section: bool


def option_help(options: type[BaseModel], prefix: str = "") -> list[OptionHelp]:
    """Every option of a method, those of a section behind it.

    Args:
        options: model of the options.
        prefix: of the names, with its dot.

    Returns:
        In the order in which the class declares them. The meaning is the field's description, or the sentence under
        ``Attributes:`` in the docstring of the class or of one that it comes from.
    """
    meanings = _meanings(options)
    found: list[OptionHelp] = []
    for name, info in options.model_fields.items():
        inner = [kind for kind in _alternatives(info.annotation) if _is_section(kind)]
        meaning = info.description or meanings.get(name, "")
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else _plain(default)
        values = _values(info)
        found.append(
            OptionHelp(f"{prefix}{name}", plain, values, " ".join(meaning.replace("``", "").split()), bool(inner))
        )
        for section in inner:
            found += option_help(section, f"{prefix}{name}.")
    return found


def option_names(options: type[BaseModel]) -> list[str]:
    """Names of all options, dotted where they are nested."""
    return [option.name for option in option_help(options)]


def _meanings(options: type[BaseModel]) -> dict[str, str]:
    """Name → sentence, from the docstrings of a class and of those it comes from; the class itself comes last."""
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        _, heading, listed = text.partition("\nAttributes:\n")
        if not heading or not issubclass(kind, BaseModel):
            continue
        name = ""
        for line in listed.splitlines():
            if line.strip() and not line.startswith(" "):
                break  # the next heading
            entry = _ENTRY.fullmatch(line[4:]) if line[:5].strip() else None
            if entry is not None:
                name = entry[1]
                found[name] = entry[2]
            elif name:
                found[name] += f" {line.strip()}"
    return found


def _values(info: FieldInfo) -> str:
    """What a field may be, in words."""
    kinds = _alternatives(info.annotation)
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    parts = [f"one of {', '.join(words)}" if len(words) > 1 else words[0]] if words else []
    for kind in kinds:
        origin = get_origin(kind)
        bounds = _bounds(info.metadata) if kind in {int, float} else ""
        if origin is Literal:
            continue
        if bounds:
            parts.append(f"a whole number, {bounds}" if kind is int else bounds)
        elif kind is bool:
            parts.append("true or false")
        elif _is_section(kind):
            parts.append(f"{{{', '.join(kind.model_fields)}}}")
        elif origin is tuple:
            parts.append("a list")
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            parts.append("name: file")
        else:
            parts.append(_WORDS.get(kind, getattr(kind, "__name__", str(kind))))
    if type(None) in get_args(info.annotation):
        parts.append("null")
    return " or ".join(parts)


def _bounds(metadata: list[Any]) -> str:
    low = next((f"at least {m.ge:g}" for m in metadata if isinstance(m, Ge)), "")
    low = next((f"above {m.gt:g}" for m in metadata if isinstance(m, Gt)), low)
    high = next((f"at most {m.le:g}" for m in metadata if isinstance(m, Le)), "")
    high = next((f"below {m.lt:g}" for m in metadata if isinstance(m, Lt)), high)
    return ", ".join(part for part in (low, high) if part)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; one type otherwise."""
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [inner for kind in get_args(annotation) for inner in _alternatives(kind)]
        return tuple(kind for kind in kinds if kind is not type(None))
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    return (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)
