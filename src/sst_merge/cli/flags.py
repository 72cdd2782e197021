"""Flags made from the configuration's model, so that the two cannot drift apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import ConfigError
from ..merging.config import AdapterConfig, MergeConfig, load_config
from ..yaml_config import tensor_files_beside

__all__ = ["Flag", "config_flags", "config_from_flags", "parse_adapter", "parse_setting"]

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flag:
    """One field of the configuration as a flag.

    Attributes:
        field: dotted name, such as ``data.harm.path``.
        option: flag, such as ``--data-harm-path``.
        info: pydantic's description of the field.
    """

    field: str
    option: str
    info: FieldInfo

    @property
    def parameter(self) -> str:
        """Name under which click hands the value over."""
        return self.field.replace(".", "__")

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed words, or nothing where it is not a choice."""
        return tuple(word for kind in self._alternatives for word in get_args(kind) if get_origin(kind) is Literal)

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

    def declare(self) -> Callable[[AnyFunction], AnyFunction]:
        """The click option; every value may be absent, because the file may have it."""
        help_text = self.info.description or ""
        default = self.info.default
        if not self.info.is_required() and default is not None and self.kind != "switch":
            help_text += f" (default: {default})"
        if self.kind == "switch":
            spelling = f"{self.option}/--no-{self.option.removeprefix('--')}"
            return click.option(spelling, self.parameter, default=None, help=help_text)
        if self.choices:
            words = click.Choice(self.choices)
            return click.option(self.option, self.parameter, type=words, default=None, help=help_text)
        several = self.kind == "several"
        metavar = {"path": "PATH", "yaml": "YAML"}.get(self.kind, "TEXT")
        return click.option(
            self.option, self.parameter, default=None, multiple=several, metavar=metavar, help=help_text
        )

    def value(self, given: Any) -> Any:
        """What the configuration gets for what click read; text stays text and is checked there.

        Args:
            given: click's value, not None.
        """
        if self.kind == "yaml":
            return _yaml_value(given, self.option)
        if self.kind == "path" or (self.field in {"base_model", "aligned_base_model"} and Path(given).is_dir()):
            # The file's relative paths start at its own folder, those of flags at the current one.
            return str(Path(given).expanduser().absolute())
        return tuple(given) if self.kind == "several" else given


def config_flags(model: type[BaseModel] = MergeConfig, prefix: str = "") -> list[Flag]:
    """Every leaf of the configuration but the list of adapters and the options of methods.

    Args:
        model: section to walk through.
        prefix: dotted name of the section, with a dot at its end.

    Returns:
        Flags in the order of the fields.
    """
    flags: list[Flag] = []
    for name, info in model.model_fields.items():
        field = f"{prefix}{name}"
        sections = [kind for kind in _alternatives(info.annotation) if _is_section(kind)]
        if sections:
            flags.extend(config_flags(sections[0], f"{field}."))
        elif field != "adapters":
            extra = info.json_schema_extra
            named = extra.get("flag") if isinstance(extra, dict) else None
            option = str(named) if named else "--" + field.replace(".", "-").replace("_", "-")
            flags.append(Flag(field, option, info))
    return flags


def config_from_flags(
    path: Path | None, values: Mapping[str, Any], adapters: Sequence[str], settings: Sequence[str]
) -> MergeConfig:
    """The configuration of a command: file first, flags over it.

    Args:
        path: YAML file, or None.
        values: click's parameters by name; absent ones are None or empty.
        adapters: values of ``--adapter``, which replace the file's list.
        settings: values of ``--set``.

    Returns:
        The checked configuration.
    """
    overrides: dict[str, object] = {}
    spelling: dict[str, str] = {}
    for flag in config_flags():
        given = values.get(flag.parameter)
        if given is not None and given != ():
            overrides[flag.field] = flag.value(given)
            spelling[flag.field] = flag.option
    if adapters:
        overrides["adapters"] = [parse_adapter(text) for text in adapters]
        spelling["adapters"] = "--adapter"
    for text in settings:
        name, value = parse_setting(text)
        overrides[f"merge.{name}"] = tensor_files_beside(value, Path.cwd())
    return load_config(path, overrides=overrides, flags=spelling)


def parse_adapter(text: str) -> dict[str, object]:
    """One ``--adapter``: a folder, or ``name=code,path=...,role=safety,weight=0.5``.

    Args:
        text: as the user wrote it.

    Returns:
        Fields of an adapter, unchecked, with an absolute path.

    Raises:
        ConfigError: a part that is not ``key=value``.
    """
    fields: dict[str, object] = {}
    if text.partition("=")[0] in AdapterConfig.model_fields:
        for part in text.split(","):
            key, sign, value = part.partition("=")
            if not sign:
                raise ConfigError(
                    f"--adapter {text!r}: {part!r} is no key=value; expected a folder, or such as "
                    f"name=code,path=adapters/code,role=utility,weight=1.0"
                )
            fields[key.strip()] = value.strip()
    else:
        fields["path"] = text
    if "path" in fields:
        fields["path"] = str(Path(str(fields["path"])).expanduser().absolute())
    return fields


def parse_setting(text: str) -> tuple[str, object]:
    """One ``--set``: an option of the method, dotted where it is nested; the value is YAML.

    Args:
        text: such as ``fisher.structure=block`` or ``filter={hard: 64}``.

    Returns:
        (dotted name, value).

    Raises:
        ConfigError: no ``=``, an empty name, or a value that is no YAML.
    """
    name, sign, value = text.partition("=")
    if not sign or not all(name.split(".")):
        raise ConfigError(f"--set {text!r}: expected option=value, such as fisher.structure=block")
    return name, _yaml_value(value, f"--set {name}")


def _yaml_value(text: str, where: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {text!r} is no YAML value ({getattr(error, 'problem', error)})") from error


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
