"""The one configuration of an evaluation: a YAML file, flags, or both, checked field by field before anything is read.

Torch is not imported here. Suites, judges and adapters are names at this point; whether they exist is seen when the
evaluation is prepared.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from ..hub_names import HubName, is_here
from ..yaml_config import FilePath, ModelReference, OutputPath, Section, beside_or_here
from .settings import ModelSettings

__all__ = ["EvaluationConfig", "JudgeModel", "NamedFolder"]


class _Place(str):
    """A path that remembers how it was written, which may have been a name of the hub."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, path: Path, written: str) -> "_Place":
        made = super().__new__(cls, str(path))
        made.written = written
        return made


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", Path()))


def _adapter_place(text: str, info: ValidationInfo) -> str:
    """A folder beside the configuration or here; ``lab:safety`` is the name of an adapter in a world and stays."""
    return text if ":" in text else _Place(beside_or_here(text, _folder(info)), text)


def _file_or_name(text: str, info: ValidationInfo) -> str:
    """A file may be called like a data set or an id of the hub: it is the file where there is one."""
    file = _folder(info) / Path(text).expanduser()
    return str(file) if file.exists() else text


def _suite(text: str, info: ValidationInfo) -> str:
    """A file of own questions beside the configuration, with or without its measure behind a colon."""
    name, ending, measure = text.partition(".jsonl")
    return f"{beside_or_here(name + ending, _folder(info))}{measure}" if ending else text


def _separated(value: object) -> object:
    """``a,b`` as two names, wherever it is written; what is not a list of texts is left for pydantic to refuse."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        return value
    return tuple(name.strip() for item in items for name in item.split(",") if name.strip())


FileOrName = Annotated[str, AfterValidator(_file_or_name)]
SuiteName = Annotated[str, AfterValidator(_suite)]


class NamedFolder(Section):
    """An adapter, or a folder of adapters; ``[NAME=]FOLDER`` is read as well."""

    name: str | None = Field(default=None, description="how tables call it; the folder's name by default")
    path: Annotated[str, AfterValidator(_adapter_place)] = Field(description="PEFT folder, a folder of them, or hub id")

    @property
    def reference(self) -> str | Path:
        """What is opened: the path, or where there is none the name on the hub (or of a world), as a text."""
        written = getattr(self.path, "written", self.path)
        here = is_here(self.path) or (":" not in written and HubName.parse(written) is None)
        return Path(self.path) if here else str(written)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        name, sign, place = value.partition("=")
        # A folder whose own name has an equals sign is taken as it is.
        whole = not sign or (_folder(info) / value).exists()
        return {"path": value} if whole else {"name": name, "path": place}


class JudgeModel(NamedFolder):
    """The copy of its model that a judge takes; ``NAME=FOLDER`` and ``NAME=ID`` are read as well."""

    name: str = Field(description="the judge's name")
    path: ModelReference = Field(description="folder or hub id")


class _Request(Section):
    """What is asked of which models, and where the results go."""

    base: ModelReference = Field(
        description="base model: folder, hub id, or lab:unaligned, lab:aligned",
        json_schema_extra={"metavar": "FOLDER|ID|lab:NAME"},
    )
    adapters: tuple[NamedFolder, ...] = Field(
        default=(),
        description="PEFT folder (or lab:NAME), a folder of them, or hub id; repeatable",
        json_schema_extra={"flag": "--adapter", "metavar": "[NAME=]FOLDER|ID"},
    )
    adapter_folders: tuple[FilePath, ...] = Field(
        default=(),
        description="folder with many adapters, named by their paths below it; repeatable",
        json_schema_extra={"flag": "--adapters-dir", "metavar": "FOLDER"},
    )
    suites: Annotated[tuple[SuiteName, ...], BeforeValidator(_separated)] = Field(
        min_length=1,
        description="suite, group (safety, over_refusal, utility, drift, all), or a file of own questions, with "
        ":safety or :over_refusal where they are to be judged; repeatable, or separated by commas",
        json_schema_extra={"flag": "--suite", "metavar": "NAME|FILE.jsonl[:MEASURE]"},
    )
    judges: Annotated[tuple[str, ...], BeforeValidator(_separated)] = Field(
        default=(),
        description="who decides refusal, harm and incoherence; repeatable, or separated by commas; by default rules "
        "and incoherence, and nobody for harm; the first judge of a column counts",
        json_schema_extra={"flag": "--judge", "metavar": "NAME"},
    )
    judge_models: tuple[JudgeModel, ...] = Field(
        default=(),
        description="another copy of a judge's model; repeatable",
        json_schema_extra={"flag": "--judge-model", "metavar": "NAME=FOLDER|ID"},
    )
    samples: int | None = Field(default=None, ge=1, description="samples per suite, drawn by the seed; all by default")
    attempts: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="answers drawn to each question of humaneval_samples and lab_tasks_samples, at least the k of "
        "their pass@k; 10 by default",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="answers are no longer than this; by default as long as the suite allows",
    )
    reference: str | None = Field(
        default=None,
        description="model that all others are compared with on the same samples (paired bootstrap, McNemar); the base "
        "by default",
        json_schema_extra={"metavar": "NAME"},
    )
    driftcheck: FileOrName | None = Field(
        default=None,
        description="the original DRIFTCHECK prompts, for drift_safe and drift_unsafe in place of the stand-in; needs "
        "one of these suites",
        json_schema_extra={"metavar": "FILE|ID"},
    )
    exclude: tuple[FileOrName, ...] = Field(
        default=(),
        description="leave out of every suite what a merge was calibrated on: a file of prompts, the merge's YAML, or "
        "a data set's name; repeatable",
        json_schema_extra={"metavar": "FILE|SET"},
    )
    out: OutputPath = Field(description="folder to write into", json_schema_extra={"also": ["-o"]})
    cache: OutputPath | None = Field(
        default=None,
        description="folder of answers to resume from; OUT/answers by default. Runs that share one share their answers",
    )
    allow_code: bool = Field(
        default=False,
        description="let suites run code that the models write (humaneval), in a sandbox",
        json_schema_extra={"flag": "--allow-code-execution"},
    )
    allow_noop: bool = Field(default=False, description="evaluate adapters whose update is exactly zero as well")
    force: bool = Field(
        default=False, description="replace a finished evaluation; answers that are there are used again"
    )


class EvaluationConfig(ModelSettings, _Request):
    """A whole evaluation. It is its models' settings too: what is asked comes first, then how models are loaded."""
