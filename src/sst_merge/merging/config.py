"""The one configuration of a merge: a YAML file, flags, or both, checked field by field before anything is read.

Torch is not imported here. Options of a method are written beside ``merge.method``; the method itself checks them.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..data_loader import DataSource, MeasuredBaseFields, is_builtin
from ..data_loader.builtin import BUILTIN_FILES
from ..data_loader.hub import short_name
from ..folder_names import named_apart
from ..hub_names import HubName, is_here
from ..yaml_config import (
    ModelReference,
    OutputPath,
    PathOrHubName,
    Section,
    Seed,
    load_yaml_config,
    tensor_files_beside,
)

__all__ = [
    "AdapterConfig",
    "DataSection",
    "MergeConfig",
    "MergeSection",
    "OutputConfig",
    "default_method",
    "load_config",
]

FloatType = Literal["float32", "bfloat16", "float16", "float64"]


class AdapterConfig(Section):
    """One adapter of the merge."""

    name: str = Field(
        default="",
        description="how messages and the report call it; by default the folder's, or its parents' where several "
        "share one",
    )
    path: PathOrHubName = Field(description="PEFT folder, or name on the hub: user/name[@revision][/folder]")
    role: Literal["utility", "safety"] = Field(default="utility", description="what it brings")
    weight: float = Field(default=1.0, description="factor in the merge")
    data: DataSource | None = Field(default=None, description="benign data of this adapter alone")
    initial: PathOrHubName | None = Field(
        default=None, description="the weights that its training began with, for PiSSA, OLoRA, CorDA and LoftQ"
    )
    _written: str = PrivateAttr(default="")

    @model_validator(mode="wrap")
    @classmethod
    def _keep_what_was_written(cls, raw: Any, handler: Callable[[Any], "AdapterConfig"]) -> "AdapterConfig":
        made = handler(raw)
        if isinstance(raw, Mapping):
            made._written = str(raw.get("path"))
        return made

    @property
    def reference(self) -> str | Path:
        """What is opened: the path, or where there is none the name on the hub, as a text."""
        return self.path if is_here(self.path) or HubName.parse(self._written) is None else self._written

    @property
    def label(self) -> str:
        """Its name, or its folder's or repository's."""
        return self.name or short_name(self.reference)


class DataSection(Section):
    """Calibration data of methods that read any."""

    calibration: Literal["builtin"] | None = Field(
        default=None,
        description="builtin: the small set that ships with this package, where harm or benign are not given",
        json_schema_extra={"flag": "--calibration"},
    )
    harm: DataSource | None = Field(default=None, description="harmful prompts with refusals")
    benign: DataSource | None = Field(default=None, description="benign prompts with good answers")
    batch_size: int = Field(default=8, ge=1, le=1_000_000, description="sequences in a forward pass")
    batch_tokens: int | None = Field(
        default=None, ge=1, description="instead of batch_size: tokens in a forward pass, padding included"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_up(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or raw.get("calibration") != "builtin":
            return raw
        filled = dict(raw)
        for kind, file in BUILTIN_FILES.items():
            given = raw.get(kind)
            if given is None or (isinstance(given, Mapping) and not {"path", "dataset"} & given.keys()):
                filled[kind] = {**(given or {}), "path": str(file)}
        return filled

    @model_validator(mode="after")
    def _one_size(self) -> "DataSection":
        if self.batch_tokens is not None and "batch_size" in self.model_fields_set:
            raise ValueError(
                f"batch_tokens: {self.batch_tokens} stands in for batch_size, and batch_size: {self.batch_size} is "
                f"given, too; drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _filled_something(self) -> "DataSection":
        if self.calibration is not None and not self.builtin:
            raise ValueError("calibration: builtin stands in for harm or benign, and both are given; drop one of them")
        return self

    @property
    def builtin(self) -> tuple[str, ...]:
        """Which of harm and benign are the set that ships with the package."""
        return tuple(kind for kind in ("harm", "benign") if is_builtin(getattr(self, kind)))


class MergeSection(Section):
    """The method; its options are written beside its name and are checked by the method."""

    model_config = ConfigDict(extra="allow")

    method: str | None = Field(
        default=None,
        description="name of a method, as `sst-merge methods` lists them; by default sst where a skill, a safety "
        "adapter and a base are given, else task_arithmetic",
        json_schema_extra={"flag": "--method"},
    )
    safety_target: float | None = Field(
        default=None,
        description="method sst: rate of refusals to keep, such as 0.9; mu and strength follow from it",
        json_schema_extra={"flag": "--safety-target"},
    )

    @model_validator(mode="before")
    @classmethod
    def _files_beside_the_configuration(cls, raw: Any, info: ValidationInfo) -> Any:
        return tensor_files_beside(raw, Path((info.context or {}).get("folder", Path())))

    @property
    def options(self) -> dict[str, object]:
        """Everything but the name."""
        target = {} if self.safety_target is None else {"safety_target": self.safety_target}
        return {**target, **(self.model_extra or {})}


class OutputConfig(Section):
    """What is written."""

    path: OutputPath = Field(description="folder to make", json_schema_extra={"flag": "--output", "also": ["-o"]})
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
    ranks: Literal["uniform", "pattern"] = Field(
        default="uniform",
        description="where ranks differ: one rank for all by rows of zeros, or each its own",
        json_schema_extra={"flag": "--ranks"},
    )
    dtype: FloatType | None = Field(
        default=None, description="type of the file; compute_dtype by default", json_schema_extra={"flag": "--dtype"}
    )


class MergeConfig(MeasuredBaseFields):
    """A whole merge."""

    base_model: ModelReference | None = Field(
        default=None,
        description="hub id (user/name[@revision][/folder]), folder or GGUF file; needed by methods that read data",
        json_schema_extra={"also": ["--base"]},
    )
    tokenizer: ModelReference | None = Field(
        default=None, description="folder or hub id; by default the adapters' own where they agree, else the base's"
    )
    aligned_base_model: ModelReference | None = Field(
        default=None, description="folder or hub id of the aligned base; for methods that compare it with base_model"
    )
    adapters: tuple[AdapterConfig, ...] = Field(min_length=1, description="what is merged")
    data: DataSection = DataSection()
    merge: MergeSection = MergeSection()
    output: OutputConfig
    seed: Seed = Field(default=0, description="of every random choice")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    compute_dtype: Literal["float32", "float64"] = Field(default="float32", description="type of the algebra")
    model_dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        default="auto",
        description="type the base model is loaded in; auto: as stored, float32 on a CPU that does not multiply it",
    )
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="threads that merge modules, by methods without data; same bytes. auto: one a core, eight at "
        "most; on a GPU one",
    )
    device_map: str | None = Field(default=None, description="how transformers spreads the base model, such as auto")
    force: bool = Field(default=False, description="replace an existing output")
    assume_same_base: bool = Field(default=False, description="merge adapters that name different bases")
    drop_modules_to_save: bool = Field(default=False, description="leave whole trained weights of the adapters out")
    leave_out: tuple[str, ...] = Field(
        default=(), description="modules of the adapters to leave out, by name or end of name; repeatable"
    )
    convert_rank: int | None = Field(
        default=None,
        ge=1,
        description="rank of adapters that are no LoRA and are read as one (DoRA, IA3, ...); by default as "
        "many as convert_lost needs",
    )
    convert_lost: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="largest share of a module's update that reading it as a LoRA may lose",
    )
    modules_to_save_from: str | None = Field(
        default=None, description="adapter whose whole trained weights are written where several disagree"
    )

    @field_validator("adapters")
    @classmethod
    def _distinct_names(cls, adapters: tuple[AdapterConfig, ...]) -> tuple[AdapterConfig, ...]:
        names = named_apart(
            [adapter.name for adapter in adapters],
            [adapter.label for adapter in adapters],
            [adapter.path.resolve() if adapter.path.exists() else adapter.path for adapter in adapters],
        )
        adapters = tuple(
            adapter if adapter.label == name else adapter.model_copy(update={"name": name})
            for adapter, name in zip(adapters, names, strict=True)
        )
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
    def _base_of_a_form(self) -> "MergeConfig":
        if self.base_model is None and (self.gguf_file or self.quantization):
            raise ValueError(
                f"{'gguf_file' if self.gguf_file else 'quantization'} says how the base is stored; give base_model "
                f"(--base) too"
            )
        if self.quantization is not None and self.model_dtype == "float64":
            raise ValueError("quantization: quantised layers do not compute in float64; take another model_dtype")
        return self

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

    @property
    def method(self) -> str:
        """The method that is named, or else the one that fits what is given."""
        return self.merge.method or default_method(
            {adapter.role for adapter in self.adapters}, base=self.base_model is not None
        )


def default_method(roles: Collection[str], *, base: bool) -> str:
    """The method of a merge that names none.

    Args:
        roles: of the adapters.
        base: whether a base model is given.

    Returns:
        ``sst`` where there are skills, safety and a base to measure them on, else ``task_arithmetic``.
    """
    return "sst" if base and {"utility", "safety"} <= set(roles) else "task_arithmetic"


def load_config(
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> MergeConfig:
    """Read the configuration of a merge and put flags over it; see :func:`~sst_merge.yaml_config.load_yaml_config`.

    Args:
        path: YAML file, or None where flags say everything.
        overrides: dotted field name → value, which wins over the file.
        flags: dotted field name → how the user wrote it, for messages.

    Returns:
        The checked configuration.
    """
    return load_yaml_config(MergeConfig, path, overrides=overrides, flags=flags)
