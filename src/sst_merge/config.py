"""The one configuration of a merge: a YAML file, flags, or both, checked field by field before anything is read.

Torch is not imported here. Options of a method stand beside ``merge.method``; the method itself checks them.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .errors import ConfigError

if TYPE_CHECKING:
    from .data_loader import DataSource

__all__ = [
    "AdapterConfig",
    "DataConfig",
    "DataSection",
    "MergeConfig",
    "MergeSection",
    "OutputConfig",
    "Section",
    "load_config",
    "read_yaml",
    "validated",
]

T = TypeVar("T")
Config = TypeVar("Config", bound=BaseModel)

FloatType = Literal["float32", "bfloat16", "float16", "float64"]


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", Path())) / path.expanduser()


def _folder_or_id(value: object, info: ValidationInfo) -> object:
    """A base model may be a hub id, which looks like a relative path: a folder of that name decides."""
    if not isinstance(value, str):
        return value
    folder = Path((info.context or {}).get("folder", Path())) / Path(value).expanduser()
    return str(folder) if folder.is_dir() else value


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


FilePath = Annotated[Path, AfterValidator(_beside_file)]
ModelReference = Annotated[str, BeforeValidator(_folder_or_id)]
Answers = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]


class Section(BaseModel):
    """Base class of every section of a configuration: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class DataConfig(Section):
    """One data set; the same fields as :class:`~sst_merge.data_loader.DataSource`."""

    path: FilePath | None = Field(default=None, description="file: .jsonl, .json or .csv, also with .gz or .xz")
    dataset: str | None = Field(default=None, description="id of a data set on the hub, instead of path")
    subset: str | None = Field(default=None, description="the hub data set's configuration")
    split: str | None = Field(default=None, description="split of the hub data set")
    where: Mapping[str, str | int | float | bool] | None = Field(
        default=None, description="keep only rows with these values, as YAML: '{is_safe: true}'"
    )
    samples: int | None = Field(default=None, ge=1, description="rows to draw; all by default")
    prompt_field: str | None = Field(default=None, description="name of the prompt's field")
    response_field: str | None = Field(default=None, description="name of the answer's field")
    response: Answers | None = Field(default=None, description="a fixed answer, or several to draw from")
    template: Literal["auto", "chat", "plain"] = Field(
        default="auto", description="how prompt and answer become one text"
    )
    max_length: int = Field(default=512, ge=2, description="longest sequence in tokens")

    @model_validator(mode="after")
    def _source_agrees(self) -> "DataConfig":
        self.to_source()
        return self

    def to_source(self) -> "DataSource":
        """The data loader's form of it."""
        from .data_loader import DataSource

        values = {name: getattr(self, name) for name in type(self).model_fields}
        return DataSource(**{**values, "path": None if self.path is None else str(self.path)})


class AdapterConfig(Section):
    """One adapter of the merge."""

    name: str = Field(default="", description="how messages and the report call it; the folder's name by default")
    path: FilePath = Field(description="PEFT folder")
    role: Literal["utility", "safety"] = Field(default="utility", description="what it brings")
    weight: float = Field(default=1.0, description="factor in the merge")
    data: DataConfig | None = Field(default=None, description="benign data of this adapter alone")

    @property
    def label(self) -> str:
        """Its name, or its folder's."""
        return self.name or self.path.resolve().name


class DataSection(Section):
    """Calibration data of methods that read any."""

    harm: DataConfig | None = Field(default=None, description="harmful prompts with refusals")
    benign: DataConfig | None = Field(default=None, description="benign prompts with good answers")
    batch_size: int = Field(default=8, ge=1, description="sequences in a forward pass")


class MergeSection(Section):
    """The method; its options stand beside its name and are checked by the method."""

    model_config = ConfigDict(extra="allow")

    method: str = Field(
        default="task_arithmetic",
        description="name of a method, as `sst-merge methods` lists them",
        json_schema_extra={"flag": "--method"},
    )

    @property
    def options(self) -> dict[str, object]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class OutputConfig(Section):
    """What is written."""

    path: FilePath = Field(description="folder to make", json_schema_extra={"flag": "--output"})
    rank: int | None = Field(
        default=None, ge=1, description="largest rank; exact by default", json_schema_extra={"flag": "--rank"}
    )
    energy: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="share of each update's energy to keep",
        json_schema_extra={"flag": "--energy"},
    )
    dtype: FloatType | None = Field(
        default=None, description="type of the file; compute_dtype by default", json_schema_extra={"flag": "--dtype"}
    )


class MergeConfig(Section):
    """A whole merge."""

    base_model: ModelReference | None = Field(
        default=None, description="hub id or folder; needed by methods that read data"
    )
    aligned_base_model: ModelReference | None = Field(
        default=None, description="local folder of the aligned base; for methods that compare it with base_model"
    )
    adapters: tuple[AdapterConfig, ...] = Field(min_length=1, description="what is merged")
    data: DataSection = DataSection()
    merge: MergeSection = MergeSection()
    output: OutputConfig
    seed: int = Field(default=0, ge=0, description="of every random choice")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    compute_dtype: Literal["float32", "float64"] = Field(default="float32", description="type of the algebra")
    model_dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        default="auto", description="type the base model is loaded in"
    )
    device_map: str | None = Field(default=None, description="how transformers spreads the base model, such as auto")
    force: bool = Field(default=False, description="replace an existing output")
    assume_same_base: bool = Field(default=False, description="merge adapters that name different bases")
    drop_modules_to_save: bool = Field(default=False, description="leave whole trained weights of the adapters out")

    @field_validator("adapters")
    @classmethod
    def _distinct_names(cls, adapters: tuple[AdapterConfig, ...]) -> tuple[AdapterConfig, ...]:
        seen: dict[str, Path] = {}
        for adapter in adapters:
            if adapter.label in seen:
                raise ValueError(
                    f"two adapters are called {adapter.label!r} ({seen[adapter.label]} and {adapter.path}); give each "
                    f"its own name"
                )
            seen[adapter.label] = adapter.path
        return adapters

    @model_validator(mode="after")
    def _output_apart(self) -> "MergeConfig":
        target = self.output.path.resolve()
        folders = [("adapter", adapter.path) for adapter in self.adapters]
        for base in (self.base_model, self.aligned_base_model):
            if base is not None and Path(base).is_dir():
                folders.append(("base model", Path(base)))
        for what, path in folders:
            source = path.resolve()
            if target.is_relative_to(source) or source.is_relative_to(target):
                raise ValueError(f"output.path: {target} and the {what} {source} share a folder; choose another output")
        return self


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in keys:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
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
        raise ConfigError(f"{path}: found {found}, expected fields such as adapters, merge and output")
    return content


def load_config(
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> MergeConfig:
    """Read a configuration file and put flags over it.

    Args:
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
    return validated(MergeConfig, raw, source=source, folder=Path() if path is None else path.parent, flags=flags)


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
        faults = [_fault(model, item, source, flags) for item in error.errors()]
        raise ConfigError("\n".join(faults)) from error


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
