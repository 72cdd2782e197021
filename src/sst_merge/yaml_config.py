"""A YAML file, flags, or both as a checked model: every fault is told with its place, what was found and expected."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from .errors import ConfigError

__all__ = [
    "FilePath",
    "ModelReference",
    "Section",
    "faults",
    "load_yaml_config",
    "read_yaml",
    "tensor_files_beside",
    "validated",
]

Config = TypeVar("Config", bound=BaseModel)


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", Path())) / path.expanduser()


def _folder_or_id(value: object, info: ValidationInfo) -> object:
    """A base model may be a hub id, which looks like a relative path: a folder of that name decides."""
    if not isinstance(value, str):
        return value
    folder = Path((info.context or {}).get("folder", Path())) / Path(value).expanduser()
    return str(folder) if folder.is_dir() else value


FilePath = Annotated[Path, AfterValidator(_beside_file)]
ModelReference = Annotated[str, BeforeValidator(_folder_or_id)]


class Section(BaseModel):
    """Base class of every section of a configuration: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that one mapping gives twice, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in keys:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Args:
        path: the file.

    Returns:
        Its contents.

    Raises:
        ConfigError: no such file, no YAML, or something else than a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the path of a YAML configuration") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}; expected a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise ConfigError(f"{path}: {line}{getattr(error, 'problem', None) or error}; expected YAML") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: found {found}, expected fields, each written as `name: value`")
    return content


def load_yaml_config(
    model: type[Config],
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Read a configuration file and put flags over it.

    Args:
        model: the configuration's class.
        path: YAML file; relative paths in it start at its folder. None where flags say everything.
        overrides: dotted field name → value, which wins over the file; relative paths start at the current folder.
        flags: dotted field name → how the user wrote it, for messages.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: file and field, what was found and what was expected, for every fault.
    """
    raw = {} if path is None else read_yaml(path)
    for name, value in overrides.items():
        raw = _overlaid(raw, name.split("."), value)
    source = "command line" if path is None else str(path)
    return validated(model, raw, source=source, folder=Path() if path is None else path.parent, flags=flags)


def validated(
    model: type[Config],
    raw: Mapping[str, object],
    *,
    source: str,
    folder: Path = Path(),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Plain values as a checked configuration.

    Args:
        model: the configuration's class.
        raw: plain values, as read from YAML.
        source: where they come from, for messages.
        folder: where relative paths start.
        flags: dotted field name → how the user wrote it, for messages.

    Returns:
        The configuration.

    Raises:
        ConfigError: source and field, what was found and what was expected, for every fault.
    """
    try:
        return model.model_validate(raw, context={"folder": folder})
    except ValidationError as error:
        raise ConfigError("\n".join(faults(model, error, source=source, flags=flags))) from error


def faults(
    model: type[BaseModel], error: ValidationError, *, source: str, flags: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """What is wrong, one sentence a fault.

    Args:
        model: class that refused the values.
        error: what it said.
        source: where the values come from.
        flags: dotted field name → how the user wrote it.

    Returns:
        Source and field, what was found and what was expected.
    """
    return [_fault(model, item, source, flags) for item in error.errors()]


def tensor_files_beside(value: Any, folder: Path) -> Any:
    """Values that name a file of tensors (``.safetensors``), with relative paths joined to a folder.

    Sections whose fields only another room knows have no :data:`FilePath`; a file's name tells it there.

    Args:
        value: plain values, nested as they may be.
        folder: where relative paths start.

    Returns:
        The same values, those paths joined.
    """
    if isinstance(value, Mapping):
        return {key: tensor_files_beside(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [tensor_files_beside(inner, folder) for inner in value]
    if isinstance(value, str) and value.endswith(".safetensors"):
        return str(folder / Path(value).expanduser())
    return value


def _overlaid(raw: Mapping[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    """A copy with one nested field replaced."""
    if len(keys) == 1:
        return {**raw, keys[0]: value}
    inner = raw.get(keys[0])
    return {**raw, keys[0]: _overlaid(inner if isinstance(inner, Mapping) else {}, keys[1:], value)}


def _fault(model: type[BaseModel], item: Any, source: str, flags: Mapping[str, str]) -> str:
    # Of a union pydantic also names the alternative, such as literal['auto']; that is no field.
    location = [part for part in item["loc"] if "[" not in str(part)]
    field = ".".join(str(part) for part in location)
    flag = next((flags[name] for name in flags if field == name or field.startswith(f"{name}.")), None)
    where = f"{source}: {field}: " if flag is None else f"{flag} ({field}): "
    if not field:
        where = f"{source}: "
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, location[:-1]))
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{where}unknown field; {hint}"
    if item["type"] == "missing":
        return f"{where}missing; this field is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}{message}" if item["type"] == "value_error" else f"{where}{message} (found {item['input']!r})"


def _fields_at(model: type[BaseModel], location: list[Any]) -> set[str]:
    """Field names of the section at a location, list positions left out."""
    for part in location:
        if isinstance(part, str):
            model = _section(model.model_fields[part].annotation) or model
    return set(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section model inside an annotation such as ``tuple[X, ...]`` or ``X | None``."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in {tuple, UnionType} or get_args(annotation):
        return next((found for inner in get_args(annotation) if (found := _section(inner)) is not None), None)
    return None
