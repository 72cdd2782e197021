"""How models are loaded and asked: part of an evaluation's configuration, and on its record. Torch is not imported."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ..data_loader import BaseAccessFields
from ..errors import ConfigError
from ..yaml_config import Seed, faults

__all__ = ["CPU_BATCH", "ModelSettings"]

CPU_BATCH = 16
"""Prompts a batch on a CPU, where none is asked for."""


def _number_or_auto(value: object) -> object:
    if value == "auto":
        return value
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError(f"{value!r}; expected a number of at least 1, or auto")
    return int(str(value))


class ModelSettings(BaseAccessFields):
    """Loading and batching: the part of a configuration that says how models are loaded, or made in Python.

    Raises:
        ConfigError: made in Python with a field that is unknown or out of range.

    Example:
        >>> ModelSettings(device="cpu", batch_size=16).dtype
        'auto'
        >>> ModelSettings(batch_size=0)
        Traceback (most recent call last):
            ...
        sst_merge.errors.ConfigError: ModelSettings: batch_size: 0; expected a number of at least 1, or auto
    """

    backend: Literal["hf", "vllm"] = Field(default="hf", description="transformers with PEFT, or vLLM")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="type of the weights; auto: as stored, float32 on a CPU"
    )
    device: str = Field(default="auto", description="such as cpu, cuda:1; auto takes a GPU where there is one (hf)")
    device_map: str | None = Field(default=None, description="auto spreads the model over all GPUs of the process (hf)")
    batch_size: Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)] = Field(
        default="auto",
        description="prompts a batch; auto: as many as fit on a GPU, 16 on a CPU",
        json_schema_extra={"metavar": "N|auto"},
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that a model is split over (vllm)")
    chat_template: bool | None = Field(
        default=None,
        description="send prompts through the tokenizer's chat template; by default where it has one",
        json_schema_extra={"flag": "--apply-chat-template"},
    )
    seed: Seed = Field(default=0, description="of drawn samples, few-shot examples and sampled answers")

    def dtype_on(self, device: str, stored: str | None) -> str:
        """The type of the weights; half types are slow and rounded on a CPU, whatever the file holds.

        Args:
            device: where the model computes.
            stored: type in the files, where that is known.
        """
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device == "cpu" or stored is None else stored

    if not TYPE_CHECKING:  # type checkers know the fields from the class

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError("\n".join(faults(type(self), error, source=type(self).__name__))) from error

        # Inside a configuration pydantic fills the fields itself, so that a fault has its place in the file.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="after")
    def _backend_agrees(self) -> "ModelSettings":
        if self.backend == "vllm" and self.device_map is not None:
            raise ValueError("device_map is for the hf backend; vLLM splits a model by tensor_parallel")
        return self
