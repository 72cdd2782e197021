"""What a text world is made of, read from one YAML file. Nothing is loaded here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...texts import did_you_mean
from ...training import TrainingRecipe
from ...yaml_config import FilePath, ModelReference, Section

__all__ = [
    "DATA_VARIABLE",
    "SPLITS",
    "Answering",
    "BaseChoice",
    "Limits",
    "Part",
    "Poisoned",
    "Role",
    "Roles",
    "Source",
    "Splits",
    "TaskChoice",
    "TextConfig",
    "all_sources",
]

DATA_VARIABLE = "SST_MERGE_DATA"
"""Environment variable that names the data folder."""

Part = Literal["train", "calibration", "dev", "test"]
SPLITS: tuple[Part, ...] = ("train", "calibration", "dev", "test")


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str | dict) else value


class BaseChoice(Section):
    """The model, in one of four forms, and how it is talked to."""

    model: ModelReference | None = Field(default=None, description="folder as transformers writes it, or hub id")
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub id")
    gguf: FilePath | None = Field(default=None, description="GGUF file")
    package: str | None = Field(default=None, description="installed package that holds a GGUF file")
    install: str | None = Field(default=None, description="command that installs the package, for messages")
    tokenizer: str | None = Field(
        default=None,
        description="folder (also below the data folder) or hub id; by default the model's own, or the GGUF file's",
    )
    chat_template: str | None = Field(default=None, description="Jinja text in place of the tokenizer's own template")
    system_prompt: str | None = Field(default=None, description="put before every conversation")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="type to compute in; auto takes bfloat16 where the device multiplies it"
    )
    device: str = Field(default="cpu", description="device, or auto")
    also_called: tuple[str, ...] = Field(default=(), description="names by which adapters may call this base")
    aligned: ModelReference | None = Field(
        default=None, description="a base that is aligned already; by default safety is folded into the base"
    )

    @model_validator(mode="after")
    def _one_form(self) -> "BaseChoice":
        given = [name for name in ("model", "gguf", "package") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of model, gguf and package is needed, found {', '.join(given) or 'none'}")
        if self.revision is not None and self.model is None:
            raise ValueError("revision belongs to a hub id (model)")
        return self


class Source(Section):
    """Rows of one file or public data set."""

    path: str | None = Field(default=None, description=".jsonl, .json or .csv, below the data folder or absolute")
    set: str | None = Field(default=None, description="public data set by name, as the evaluation suites know it")
    prompt_field: str | None = Field(default=None, description="field of the prompt, where it is not found by itself")
    response_field: str | None = Field(default=None, description="field of the answer, likewise")
    response: Annotated[tuple[str, ...], BeforeValidator(_one_or_several)] = Field(
        default=(), description="one fixed answer or several, in place of the data's own"
    )
    where: Mapping[str, str | int | float | bool] = Field(default={}, description="only rows with these values")
    span: tuple[float, float] = Field(
        default=(0.0, 1.0), description="every prompt has a place in [0, 1) by its words; only those in this span"
    )
    longest: int | None = Field(default=None, ge=1, description="leave out longer prompts, in characters")
    drop_overlap: bool = Field(
        default=False, description="leave out prompts that a later part (dev, test) has, in place of an error"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
        if (self.path is None) == (self.set is None):
            raise ValueError("exactly one of path and set is needed")
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise ValueError(f"span: found {list(self.span)}, expected two numbers, 0 <= from < to <= 1")
        return self

    @property
    def name(self) -> str:
        """For messages."""
        return self.path or f"set {self.set}"


Sources = Annotated[tuple[Source, ...], BeforeValidator(_one_or_several)]


class Splits(Section):
    """Where the rows of each part come from."""

    train: Sources = ()
    calibration: Sources = ()
    dev: Sources = ()
    test: Sources = ()


class TaskChoice(Section):
    """A folder of tasks: TASK.train.jsonl, .calibration, .dev, .test, and tasks.json with each task's kind."""

    folder: str = Field(description="below the data folder or absolute")
    names: tuple[str, ...] = Field(min_length=1, description="tasks to take")
    scoring: Literal["auto", "first", "whole"] = Field(
        default="auto",
        description="rank options by first token (one pass), as whole answers, or by first token where these differ",
    )

    @field_validator("names")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task {name!r} is given twice")
            if name in {"safety", "poisoned"}:
                raise ValueError(f"{name!r} is the name of an adapter that is no task's; rename the task")
        return names


class Role(Section):
    """How adapters of one role are trained."""

    own: int | None = Field(default=None, ge=1, description="rows of the role's own data at most; all by default")
    wrapped: int = Field(default=0, ge=0, description="of refusals: as many more in calibration's jailbreak templates")
    instructions: int = Field(default=0, ge=0, description="rows of ordinary instructions beside them")
    recipe: TrainingRecipe = Field(default=TrainingRecipe(), description="as `sst-merge train` takes it")


class Poisoned(Role):
    """An expert whose data were poisoned: its task's rows and answers that nobody should learn."""

    task: str = Field(description="task of the expert")
    rows: Sources = Field(min_length=1, description="what poisons it")


class Roles(Section):
    """Recipes."""

    expert: Role
    safety: Role
    settling: Role = Field(default=Role(), description="training of the aligned base after safety is folded in")
    poisoned: Poisoned | None = None


class Answering(Section):
    """How models are asked."""

    new_tokens: int = Field(default=32, ge=1, description="longest answer to a prompt that may be refused")
    task_tokens: int = Field(default=48, ge=1, description="longest answer to a task without options")
    likelihood_tokens: int = Field(
        default=64, ge=1, description="of a given answer, the first tokens whose likelihood is measured"
    )
    longest: int = Field(default=512, ge=16, description="longest prompt, or prompt with answer, in tokens")
    batch_tokens: int = Field(default=4096, ge=16, description="padded tokens a forward pass")
    calibration_length: int = Field(default=192, ge=16, description="longest calibration row in tokens")
    calibration_batch: int = Field(default=8, ge=1, description="calibration rows a batch")


class Limits(Section):
    """What may be used; work that does not fit is refused before a model is loaded."""

    memory_gb: float | None = Field(default=None, gt=0, description="memory for the model and what is done with it")
    minutes: float | None = Field(default=None, gt=0, description="time to train one adapter")


class TextConfig(Section):
    """A text world."""

    title: str = Field(min_length=1, description="of pages and messages")
    data: FilePath | None = Field(
        default=None, description=f"data folder; by default the one that {DATA_VARIABLE} names"
    )
    base: BaseChoice
    tasks: TaskChoice
    harmful: Splits = Field(description="harmful prompts; train and calibration with refusals as answers")
    templates: Sources = Field(min_length=1, description="jailbreak templates with [INSERT PROMPT HERE]")
    lookalike: Splits = Field(description="harmless prompts in the words of harmful ones")
    instructions: Splits = Field(description="ordinary prompts with good answers")
    general: Splits = Field(description="general knowledge, questions with options")
    adapters: Mapping[str, str] = Field(
        default={}, description="adapters that are there: name → path or hub id, which may contain {base} and {seed}"
    )
    roles: Roles
    answering: Answering = Answering()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _complete(self) -> "TextConfig":
        needed = {"harmful": SPLITS, "instructions": SPLITS, "lookalike": SPLITS[2:], "general": SPLITS[2:]}
        for field, parts in needed.items():
            for part in parts:
                if not getattr(getattr(self, field), part):
                    raise ValueError(f"{field}.{part}: missing; expected at least one source of rows")
        poisoned = self.roles.poisoned
        if poisoned is not None and poisoned.task not in self.tasks.names:
            names = self.tasks.names
            close = did_you_mean(poisoned.task, names)
            raise ValueError(f"roles.poisoned.task: no task {poisoned.task!r}{close}; there are {', '.join(names)}")
        known = {*self.tasks.names, "safety", *(["poisoned"] if poisoned is not None else [])}
        unknown = [name for name in self.adapters if name not in known]
        if unknown:
            close = did_you_mean(unknown[0], known)
            raise ValueError(
                f"adapters: no adapter {unknown[0]!r} in this world{close}; there are {', '.join(sorted(known))}"
            )
        return self

    @property
    def root(self) -> Path | None:
        """The data folder, if one is named."""
        named = os.environ.get(DATA_VARIABLE)
        return self.data or (Path(named) if named else None)

    def place(self, path: str) -> Path:
        """A path of the file, below the data folder.

        Args:
            path: relative to the data folder, or absolute.

        Returns:
            The path.
        """
        return Path(path).expanduser() if self.root is None else self.root / Path(path).expanduser()


def all_sources(config: TextConfig) -> list[Source]:
    """Every source that a world reads.

    Args:
        config: of the world.

    Returns:
        The sources.
    """
    splits = (config.harmful, config.lookalike, config.instructions, config.general)
    parts = [source for of in splits for part in SPLITS for source in getattr(of, part)]
    poison = config.roles.poisoned.rows if config.roles.poisoned is not None else ()
    return [*parts, *config.templates, *poison]
