"""Whether work fits into the memory and time that a world may use, before a model is loaded."""

from pathlib import Path

from ...data_loader import resolve_device
from ...errors import ConfigError
from .base import find_base, gguf_file
from .config import TextConfig

__all__ = ["check_memory", "check_minutes", "parameters"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_GGUF_BITS = 4.5
"""A parameter in the smallest format in common use; of others the count comes out too high."""

_COPIES = 2
"""The model, and its weights once more while an update is added to them."""

_BESIDE_GB = 1.0
"""Libraries, logits and caches."""

_TRAINING_GB = 1.0
"""Activations, gradients and the adapter's optimiser, for the batches that fit a few cores."""


def parameters(config: TextConfig) -> int | None:
    """Parameters of the base, from its configuration, or about, from the size of its GGUF file.

    Args:
        config: of the world.

    Returns:
        Their number, or None where the base is a hub id that is not on this machine yet.
    """
    folder = find_base(config)
    if folder is not None:
        return _of_folder(folder)
    file = gguf_file(config.base)
    return None if file is None else int(8 * file.stat().st_size / _GGUF_BITS)


def _of_folder(folder: Path) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def check_memory(config: TextConfig, *, training: bool = False) -> None:
    """Refuse a base that does not fit.

    Args:
        config: of the world.
        training: whether an adapter is trained on it.

    Raises:
        ConfigError: it needs more memory than the world may use.
    """
    limit = config.limits.memory_gb
    if limit is None:
        return
    n = parameters(config)
    if n is None:
        return
    from ...training.train import training_dtype

    dtype = training_dtype(config.base.dtype, resolve_device(config.base.device))
    size = n * _BYTES[dtype] / 1e9
    needed = size + _TRAINING_GB + _BESIDE_GB if training else _COPIES * size + _BESIDE_GB
    if needed > limit:
        raise ConfigError(
            f"{config.title}: {n / 1e6:.0f} million parameters in {dtype} need about {needed:.1f} GB "
            f"{'to train on' if training else 'to merge and measure'}, and limits.memory_gb is {limit:g}; "
            "raise it where the machine has more, or take a smaller type or base"
        )


def check_minutes(config: TextConfig, seconds: float, what: str) -> None:
    """Refuse a training that takes too long.

    Args:
        config: of the world.
        seconds: that it takes, as far as can be told before.
        what: is trained, for the message.

    Raises:
        ConfigError: it takes longer than the world may use.
    """
    limit = config.limits.minutes
    if limit is not None and seconds > 60 * limit:
        raise ConfigError(
            f"{config.title}: training {what} takes about {seconds / 60:.0f} minutes here, and limits.minutes is "
            f"{limit:g}; train on fewer rows or epochs, use a faster machine, or raise limits.minutes"
        )
