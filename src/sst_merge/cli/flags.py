"""Flags made from a configuration's model, so that the two cannot drift apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ConfigError
from ..reading import reading
from ..texts import shown
from ..yaml_config import MoreFaults, load_yaml_config, parse_yaml
from .console import detail

__all__ = [
    "Flag",
    "config_flags",
    "read_config",
    "with_flags",
]

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Flag:
    """One field of a configuration as a flag.

    Attributes:
        field: dotted name, such as ``data.harm.path``.
        info: pydantic's description of the field; ``flag`` and ``metavar`` of its `json_schema_extra` are read.
    """

    field: str
    info: FieldInfo

    @property
    def option(self) -> str:
        """The flag, such as ``--data-harm-path``."""
        return str(self._declared.get("flag") or "--" + self.field.replace(".", "-").replace("_", "-"))

    @property
    def parameter(self) -> str:
        """Name under which click hands the value over."""
        return self.field.replace(".", "__")

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed words, or nothing where something else is allowed too."""
        if any(get_origin(kind) is not Literal for kind in self._alternatives):
            return ()
        return tuple(word for kind in self._alternatives for word in get_args(kind))

    @property
    def kind(self) -> str:
        """``switch``, ``several``, ``yaml``, ``path`` or ``text``."""
        kinds = {get_origin(kind) or kind for kind in self._alternatives}
        if bool in kinds:
            return "switch"
        if tuple in kinds:
            return "several"
        if Mapping in kinds or dict in kinds:
            return "yaml"
        return "path" if Path in kinds else "text"

    @property
    def _alternatives(self) -> tuple[Any, ...]:
        return _alternatives(self.info.annotation)

    @property
    def _declared(self) -> Mapping[str, Any]:
        extra = self.info.json_schema_extra
        return extra if isinstance(extra, dict) else {}

    def declare(self) -> Callable[[AnyFunction], AnyFunction]:
        """The click option; every value may be absent, because the file may have it."""
        help_text = self.info.description or ""
        default = self.info.default
        if not self.info.is_required() and default not in (None, ()) and self.kind != "switch":
            help_text += f" (default: {default})"
        if self.kind == "switch":
            spelling = f"{self.option}/--no-{self.option.removeprefix('--')}"
            return click.option(spelling, self.parameter, default=None, help=help_text)
        if self.choices:
            words = click.Choice(self.choices)
            return click.option(self.option, self.parameter, type=words, default=None, help=help_text)
        spellings = [self.option, *self._declared.get("also", ())]
        several = self.kind == "several"
        metavar = self._declared.get("metavar") or {"path": "PATH", "yaml": "YAML"}.get(self.kind)
        metavar = metavar or ("NUMBER" if {int, float} & set(self._alternatives) else "TEXT")
        return click.option(*spellings, self.parameter, default=None, multiple=several, metavar=metavar, help=help_text)

    def value(self, given: Any) -> Any:
        """What the configuration gets for what click read.

        Relative paths of flags start at the current folder, those of a file at the file's own; so a flag is read here,
        before the two are put together. What cannot be read is handed on as it is, to be refused with the rest.
        """
        plain = parse_yaml(given, source=self.option) if self.kind == "yaml" else given
        with reading(f"{self.option} {shown(given)}", ConfigError, f"{self.kind} value", "correct the value"):
            try:
                reader: TypeAdapter[Any] = TypeAdapter(self.info.rebuild_annotation())
                return reader.validate_python(plain, context={"folder": Path().absolute()})
            except ValidationError:
                return plain


def config_flags(model: type[BaseModel], prefix: str = "") -> list[Flag]:
    """Every leaf of a configuration, but lists of sections that declare no flag and the options of methods."""
    flags: list[Flag] = []
    for name, info in model.model_fields.items():
        flag = Flag(f"{prefix}{name}", info)
        kinds = _alternatives(info.annotation)
        sections = [kind for kind in kinds if _is_section(kind)]
        if sections:
            flags.extend(config_flags(sections[0], f"{flag.field}."))
        elif "flag" in flag._declared or not any(_is_section(inner) for kind in kinds for inner in get_args(kind)):
            flags.append(flag)
    return flags


def with_flags(model: type[BaseModel]) -> Callable[[AnyFunction], AnyFunction]:
    """Give a command the argument CONFIG and one flag per field."""

    def decorate(function: AnyFunction) -> AnyFunction:
        for flag in reversed(config_flags(model)):
            function = flag.declare()(function)
        return click.argument("config", required=False, type=click.Path(path_type=Path))(function)

    return decorate


def read_config(
    model: type[Config],
    path: Path | None,
    values: Mapping[str, Any],
    more: Mapping[str, tuple[str, object]] = MappingProxyType({}),
    also: MoreFaults | None = None,
    called: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """The configuration of a command.

    Args:
        model: its class.
        path: YAML file, or None where flags say everything.
        values: of the flags, which win over the file.
        more: field → (flag as written, value), which win over both.
        also: finds faults that the model cannot see.
        called: field → flags that give it, for messages where there is no file.

    Returns:
        The configuration.

    Raises:
        ConfigError: every fault, a line each, files that do not exist among them.
    """
    flags = config_flags(model)
    given = [flag for flag in flags if values.get(flag.parameter) not in (None, ())]
    overrides = {flag.field: flag.value(values[flag.parameter]) for flag in given}
    # Without a file all fields come from flags, and a missing one is called by its flag.
    spelling = {flag.field: flag.option for flag in (flags if path is None else given)}
    spelling |= called if path is None else {}
    spelling |= {field: written for field, (written, _) in more.items()}
    overrides |= {field: value for field, (_, value) in more.items()}
    checked = load_yaml_config(model, path, overrides=overrides, flags=spelling, files_exist=True, more=also)
    detail(f"configuration: {checked.model_dump_json()}")
    return checked


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; one type otherwise."""
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [inner for kind in get_args(annotation) for inner in _alternatives(kind)]
        return tuple(kind for kind in kinds if kind is not type(None))
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    return (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)
