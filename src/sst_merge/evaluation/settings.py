"""How models are loaded and asked: one frozen object that goes on the record."""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

__all__ = ["Backend", "ModelSettings"]

Backend = Literal["hf", "vllm"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Loading and batching.

    Attributes:
        backend: ``hf`` (transformers and PEFT) or ``vllm``.
        dtype: type of the weights, or ``auto``: as stored on a GPU, float32 on a CPU.
        device: such as ``cpu`` or ``cuda:1``; None takes the first GPU, else the CPU.
        device_map: ``auto`` spreads the model over all GPUs of this process.
        batch_size: prompts a batch, or ``auto``: as many as fit (a CPU takes 16).
        tensor_parallel: GPUs that vLLM splits a model over.
        chat_template: whether prompts go through the tokenizer's chat template; None: where it has one.
        seed: of few-shot examples, of sampled answers and of the choice of samples.

    Raises:
        ConfigError: a value that cannot be.
    """

    backend: Backend = "hf"
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    batch_size: int | Literal["auto"] = "auto"
    tensor_parallel: int = 1
    chat_template: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise ConfigError(f"batch_size: {self.batch_size!r}, expected a number of at least 1, or auto")
        if self.backend == "vllm" and self.device_map is not None:
            raise ConfigError("device_map is for the hf backend; vLLM splits a model by tensor_parallel")
        if self.tensor_parallel < 1:
            raise ConfigError(f"tensor_parallel: {self.tensor_parallel}, expected at least 1 GPU")
