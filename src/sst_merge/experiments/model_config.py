"""The configuration of the same comparison on a real model: what to train, merge, evaluate, and what it may cost.

No figure of this project comes from it: the machines that it is made on have no room for a 7B model. Torch is not
imported here.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from ..data_loader import DataSource
from ..errors import ConfigError
from ..yaml_config import Section, read_yaml, validated

__all__ = ["AdapterPlan", "Budget", "LoraTraining", "MethodPlan", "ModelConfig", "is_model_config", "load_model_config"]


def _hub_id(value: str) -> str:
    if value.count("/") != 1 or not all(value.split("/")):
        raise ValueError(f"{value!r} is no hub id; expected owner/name")
    return value


class LoraTraining(Section):
    """How an adapter is trained."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = Field(min_length=1)
    learning_rate: float = Field(gt=0.0)
    epochs: float = Field(default=1.0, gt=0.0)
    batch: int = Field(default=4, ge=1, description="sequences in a forward pass")
    accumulation: int = Field(default=4, ge=1, description="passes per step")
    warmup: float = Field(default=0.03, ge=0.0, lt=1.0, description="share of the steps")
    gradient_checkpointing: bool = True


class AdapterPlan(Section):
    """One adapter: where it comes from, or what it is trained on."""

    name: str = Field(min_length=1)
    role: Literal["utility", "safety"] = "utility"
    data: DataSource
    tokens: int = Field(ge=1, description="of all training rows together, for the estimate of time")


class MethodPlan(Section):
    """A method with its sweep."""

    method: str
    knob: str = Field(min_length=1, description="an option of the method, or safety_weight")
    values: tuple[float, ...] = Field(min_length=1)
    options: dict[str, object] = Field(default_factory=dict)


class Budget(Section):
    """What a run may cost; a plan that exceeds it is refused."""

    gpu_memory_gib: float = Field(gt=0.0)
    hours: float = Field(gt=0.0)
    tokens_per_second: float = Field(
        gt=0.0, description="of a forward pass in evaluation; training takes four times that"
    )


class ModelConfig(Section):
    """The comparison on one real model."""

    model: Annotated[str, AfterValidator(_hub_id)] = Field(description="hub id of the chat model")
    unaligned_model: Annotated[str, AfterValidator(_hub_id)] | None = Field(
        default=None, description="hub id of the same model before alignment"
    )
    parameters: float = Field(gt=0.0, description="of the model, in billions")
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    chat_template: str = Field(default="tokenizer", description="the tokenizer's own (tokenizer), or a Jinja template")
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    training: LoraTraining
    adapters: tuple[AdapterPlan, ...] = Field(min_length=2)
    harm: DataSource
    benign: DataSource
    methods: tuple[MethodPlan, ...] = Field(min_length=1)
    suites: tuple[str, ...] = Field(min_length=1, description="of `sst-merge evaluate`")
    evaluation_tokens: int = Field(ge=1, description="read and written by one model on all suites")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    budget: Budget

    @model_validator(mode="after")
    def _roles_and_names(self) -> "ModelConfig":
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) < len(names):
            raise ValueError(f"adapters {names}: each needs a name of its own")
        roles = {adapter.role for adapter in self.adapters}
        if roles != {"utility", "safety"}:
            raise ValueError(
                f"adapters of role {', '.join(sorted(roles))} only; the comparison needs utility and safety"
            )
        return self


def is_model_config(path: Path) -> bool:
    """Whether a file is the configuration of a real model rather than of the lab.

    Args:
        path: YAML file.

    Returns:
        True where it names a model.
    """
    try:
        return path.is_file() and "model" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError, TypeError):
        return False  # the reader of the lab's configuration says what is wrong with it


def load_model_config(path: Path) -> ModelConfig:
    """Read the configuration of a real model.

    Args:
        path: YAML file.

    Returns:
        The checked configuration; every method's options are checked, too.

    Raises:
        ConfigError: file and field, what was found and what was expected, for every fault.
    """
    from ..errors import MergeError
    from ..methods import get_method, parse_options
    from ..suites.catalogue import SUITES

    config = validated(ModelConfig, read_yaml(path), source=str(path), folder=path.parent)
    unknown = [name for name in config.suites if name not in SUITES]
    if unknown:
        raise ConfigError(f"{path}: suites: no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    for plan in config.methods:
        try:
            knob = {} if plan.knob == "safety_weight" else {plan.knob: plan.values[0]}
            parse_options(get_method(plan.method), {**plan.options, **knob})
        except MergeError as error:
            raise ConfigError(f"{path}: methods: {error}") from error
    return config
