"""A YAML file, flags, or both as a checked model: every fault is told with its place, what was found and expected."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from .errors import ConfigError
from .hub_names import HubName, is_here, near_name
from .reading import read_bounded, reading
from .texts import bounded, did_you_mean, is_text, shown

__all__ = [
    "FilePath",
    "MoreFaults",
    "ModelReference",
    "OutputPath",
    "PathOrHubName",
    "Section",
    "Seed",
    "beside_or_here",
    "faults",
    "load_yaml_config",
    "parse_yaml",
    "read_yaml",
    "tensor_files_beside",
    "validated",
]

Config = TypeVar("Config", bound=BaseModel)
MoreFaults = Callable[[Mapping[str, Any]], Sequence[tuple[str, str]]]
"""From plain values to (dotted field name, what is wrong with it)."""

_LONGEST = 1 << 16  # bytes of a configuration: of nothing but brackets the parser takes three seconds for them
_MOST_VALUES = 100_000
_DEEPEST = 50
_MOST_FAULTS = 20
_LONGEST_FIELD = 200


def beside_or_here(path: str | Path, folder: Path) -> Path:
    """Where a relative path of a configuration leads: beside it, or, where only that exists, in the working folder.

    Args:
        path: as written.
        folder: of the configuration.

    Returns:
        The path that exists; the one beside the configuration where neither does.
    """
    here = Path(path).expanduser()
    beside = folder / here
    return here if not is_here(beside) and is_here(here) else beside


def _input_path(path: Path, info: ValidationInfo) -> Path:
    context = info.context or {}
    folder = Path(context.get("folder", Path()))
    found = beside_or_here(path, folder)
    if context.get("files_exist") and not is_here(found):
        here = path.expanduser().absolute()
        both = (
            f"neither {folder.absolute() / path} (beside the configuration) nor {here} (in the working folder) exists"
        )
        said = both if folder.absolute() / path != here else f"{here} does not exist"
        raise ValueError(f"{said}{near_name(here)}; correct the path")
    return found


def _path_or_hub_name(path: Path, info: ValidationInfo) -> Path:
    """Whether a name of the hub that is no path here stands for anything is seen when it is opened."""
    if HubName.parse(str(path)) is None:
        return _input_path(path, info)
    return beside_or_here(path, Path((info.context or {}).get("folder", Path())))


def _output_path(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", Path())) / path.expanduser()


def _folder_or_id(value: object, info: ValidationInfo) -> object:
    """A base model may be a hub id, which looks like a relative path: a folder (or GGUF file) of that name decides."""
    if not isinstance(value, str):
        return value
    folder = beside_or_here(value, Path((info.context or {}).get("folder", Path())))
    # What is written as a path stays one, so that it is never asked of the hub.
    if folder.is_dir() or (folder.suffix.lower() == ".gguf" and folder.is_file()):
        return str(folder)
    return str(folder.absolute()) if value.startswith((".", "~")) else value


FilePath = Annotated[Path, AfterValidator(_input_path)]
"""Something that is read: looked for beside the configuration, then in the working folder."""
PathOrHubName = Annotated[Path, AfterValidator(_path_or_hub_name)]
"""The same, or a name on the hub."""
OutputPath = Annotated[Path, AfterValidator(_output_path)]
"""Something that is written: always beside the configuration."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every generator of random numbers takes; NumPy's takes no more."""
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

    Raises:
        ConfigError: no such file, no YAML, or something else than a mapping.
    """
    with reading(path, ConfigError, "a YAML configuration", "give the path of one"):
        content = parse_yaml(read_bounded(path, _LONGEST), source=str(path))
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: found {found}, expected fields, each written as `name: value`")
    return content


def parse_yaml(text: str, *, source: str) -> Any:
    """A value written as YAML: plain data, of a bounded number of values.

    Args:
        text: the YAML.
        source: where it comes from, for messages.

    Returns:
        The value.

    Raises:
        ConfigError: no YAML, a value that is none (a date such as 2024-13-45), nested too deeply, or aliases that
            stand for more values than any configuration has.
    """
    with reading(source, ConfigError, "YAML", "correct what it names"):
        try:
            content = yaml.load(text, Loader=_UniqueKeyLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f"line {mark.line + 1}: "
            raise ConfigError(f"{source}: {line}{getattr(error, 'problem', None) or error}; expected YAML") from error
        if (count := _values(content, {}, 0)) > _MOST_VALUES:
            raise ConfigError(
                f"{source}: its aliases stand for {'endlessly many' if math.isinf(count) else 'too many'} values; "
                f"expected at most {_MOST_VALUES}, so write them out"
            )
    return content


def _values(value: object, known: dict[int, float], depth: int) -> float:
    """How many values a value has when every alias is written out; infinite where one holds itself.

    Raises:
        RecursionError: nested more deeply than what reads the configuration can follow.
        ValueError: a text that cannot be written again.
    """
    if isinstance(value, str) and not is_text(value):
        raise ValueError(f"{shown(value)} holds half of a surrogate pair, which is no character")
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if depth > _DEEPEST:
        raise RecursionError
    if id(value) not in known:
        known[id(value)] = math.inf
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(item, known, depth + 1) for item in inner)
    return known[id(value)]


def load_yaml_config(
    model: type[Config],
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    flags: Mapping[str, str] = MappingProxyType({}),
    files_exist: bool = False,
    more: "MoreFaults | None" = None,
) -> Config:
    """Read a configuration file and put flags over it.

    Args:
        model: the configuration's class.
        path: YAML file; relative paths in it start at its folder, or, where they lead to nothing there, at the current
            one; those of outputs always at its own. None where flags say everything.
        overrides: dotted field name → value, which wins over the file; relative paths start at the current folder.
        flags: dotted field name → how the user wrote it, for messages.
        files_exist: count a file that is to be read and does not exist among the faults.
        more: finds what only another room can see of the plain values, to be told with the other faults.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: file and field, what was found and what was expected, for every fault.
    """
    raw = {} if path is None else read_yaml(path)
    for name, value in overrides.items():
        raw = _overlaid(raw, name.split("."), value)
    source = "command line" if path is None else str(path)
    folder = Path() if path is None else path.parent
    return validated(model, raw, source=source, folder=folder, flags=flags, files_exist=files_exist, more=more)


def validated(
    model: type[Config],
    raw: Mapping[str, object],
    *,
    source: str,
    folder: Path = Path(),
    flags: Mapping[str, str] = MappingProxyType({}),
    files_exist: bool = False,
    more: "MoreFaults | None" = None,
) -> Config:
    """Plain values as a checked configuration.

    Args:
        model: the configuration's class.
        raw: plain values, as read from YAML.
        source: where they come from, for messages.
        folder: where relative paths start.
        flags: dotted field name → how the user wrote it, for messages.
        files_exist: count a file that is to be read and does not exist among the faults.
        more: finds what only another room can see of the plain values, to be told with the other faults.

    Returns:
        The configuration.

    Raises:
        ConfigError: source and field, what was found and what was expected, for every fault.
    """
    with reading(source, ConfigError, f"fields of {model.__name__}", "correct the value"):
        told = [] if more is None else [_place(field, source, flags) + said for field, said in more(raw)]
        try:
            checked = model.model_validate(raw, context={"folder": folder, "files_exist": files_exist})
        except ValidationError as error:
            raise ConfigError("\n".join([*faults(model, error, source=source, flags=flags), *told])) from error
        if told:
            raise ConfigError("\n".join(told))
        return checked


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
    found = [item for item in error.errors(include_url=False) if not _follows(item, error)]
    told = [_fault(model, item, source, flags) for item in found[:_MOST_FAULTS]]
    return told if len(found) <= _MOST_FAULTS else [*told, f"{source}: and {len(found) - _MOST_FAULTS} more faults"]


def tensor_files_beside(value: Any, folder: Path) -> Any:
    """Values that name a file of tensors (``.safetensors``), with relative paths joined to a folder.

    Sections whose fields only another room knows have no :data:`FilePath`; a file's name tells it there.
    """
    if isinstance(value, Mapping):
        return {key: tensor_files_beside(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [tensor_files_beside(inner, folder) for inner in value]
    if isinstance(value, str) and value.endswith(".safetensors"):
        return str(beside_or_here(value, folder))
    return value


def _overlaid(raw: Mapping[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    """A copy with one nested field replaced."""
    if len(keys) == 1:
        return {**raw, keys[0]: value}
    inner = raw.get(keys[0])
    return {**raw, keys[0]: _overlaid(inner if isinstance(inner, Mapping) else {}, keys[1:], value)}


def _follows(item: Any, error: ValidationError) -> bool:
    """Whether a list counts as too short only because what is in it has faults of its own."""
    depth = len(item["loc"])
    return item["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == item["loc"]
        for other in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _fault(model: type[BaseModel], item: Any, source: str, flags: Mapping[str, str]) -> str:
    # Of a union pydantic also names the alternative, such as literal['auto']; that is no field.
    location = [part for part in item["loc"] if "[" not in str(part)]
    field = bounded(".".join(str(part) for part in location), _LONGEST_FIELD)
    where = _place(field, source, flags)
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, location[:-1]))
        hint = did_you_mean(location[-1], known) or f"; known here: {', '.join(known)}"
        return f"{where}unknown field{hint}"
    if item["type"] == "missing":
        return f"{where}missing; this field is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}{message}" if item["type"] == "value_error" else f"{where}{message} (found {shown(item['input'])})"


def _place(field: str, source: str, flags: Mapping[str, str]) -> str:
    """How a message begins: the flag that was given, or the file, and the field."""
    flag = next((flags[name] for name in flags if field == name or field.startswith(f"{name}.")), None)
    if not field:
        return f"{source}: "
    return f"{source}: {field}: " if flag is None else f"{flag} ({field}): "


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
