"""How an adapter is trained: all that decides its weights but base, rows and seed. Torch is not imported here."""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from ..data_loader.source import Template
from ..yaml_config import Section

__all__ = ["ALL_LINEAR", "TrainingRecipe"]

ALL_LINEAR: Final = "all-linear"


def _all_or_names(value: object) -> object:
    """``a,b`` as two names, and a list that says ``all-linear`` alone as the word."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value
    names = tuple(name.strip() for text in names for name in text.split(",") if name.strip())
    return ALL_LINEAR if names == (ALL_LINEAR,) else names


def _flag(name: str) -> dict[str, JsonValue]:
    return {"flag": f"--{name}"}


class TrainingRecipe(Section):
    """A checked recipe.

    AdamW on the answers' tokens, linear warm-up, cosine decay to zero, no dropout anywhere. A step's loss is the mean
    over its answer tokens.

    Attributes:
        rank: of every layer's update.
        alpha: LoRA's α; ΔW = α / rank · B A.
        targets: names (or last parts of names) of the layers to adapt, or ``all-linear``: all but the output layer.
        learning_rate: at its highest.
        epochs: how often every row is seen; 0.5 is half of the rows.
        batch_size: sequences in a step.
        accumulation: forward passes that a step is computed in at least, for less memory; the result is the same up to
            rounding.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of AdamW.
        clip: largest norm of a step's gradient.
        max_length: longest sequence in tokens; longer answers are cut.
        dtype: type of the base while it is trained on; ``auto`` takes bfloat16 where the processor is faster with it.
            The adapter itself is trained in float32.
        output_dtype: type of the written adapter.
        template: ``chat``, ``plain`` or ``auto`` (chat where the tokenizer has a template).
        template_name: which of the tokenizer's chat templates, where it has several.
        gradient_checkpointing: compute the forward pass twice to save memory.
    """

    rank: int = Field(default=8, ge=1, description="of every layer's update", json_schema_extra=_flag("rank"))
    alpha: float = Field(default=16.0, gt=0, description="LoRA's alpha", json_schema_extra=_flag("alpha"))
    targets: Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_all_or_names)] = Field(
        default=ALL_LINEAR,
        description="layers to adapt by name or last part of the name, such as q_proj; repeatable",
        json_schema_extra={"flag": "--target", "metavar": "NAME"},
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, description="at its highest", json_schema_extra=_flag("learning-rate")
    )
    epochs: float = Field(
        default=2.0, gt=0, description="how often every row is seen", json_schema_extra=_flag("epochs")
    )
    batch_size: int = Field(default=16, ge=1, description="sequences in a step", json_schema_extra=_flag("batch-size"))
    accumulation: int = Field(
        default=1,
        ge=1,
        description="forward passes that a step is computed in at least, for less memory",
        json_schema_extra=_flag("accumulation"),
    )
    warmup: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the steps in which the learning rate rises",
        json_schema_extra=_flag("warmup"),
    )
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW", json_schema_extra=_flag("weight-decay"))
    clip: float = Field(default=1.0, gt=0, description="largest norm of a gradient", json_schema_extra=_flag("clip"))
    max_length: int = Field(
        default=512,
        ge=2,
        le=1_000_000,
        description="longest sequence in tokens",
        json_schema_extra=_flag("max-length"),
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="type of the base in training; auto takes bfloat16 where the processor is faster with it",
        json_schema_extra=_flag("dtype"),
    )
    output_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="type of the written adapter", json_schema_extra=_flag("output-dtype")
    )
    template: Template = Field(
        default="auto", description="how prompt and answer become one text", json_schema_extra=_flag("template")
    )
    template_name: str | None = Field(
        default=None, description="which of the tokenizer's chat templates", json_schema_extra=_flag("template-name")
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute the forward pass twice to save memory",
        json_schema_extra=_flag("gradient-checkpointing"),
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingRecipe":
        if not self.targets:
            raise ValueError(f"targets: an empty list; name the layers to adapt, or write {ALL_LINEAR}")
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation: {self.accumulation} parts of {self.batch_size} sequences; take at most one part a "
                "sequence"
            )
        return self
