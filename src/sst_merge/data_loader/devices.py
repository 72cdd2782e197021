"""Devices of this machine by name, and what one of them lacks: Apple's GPUs (mps) have no float64.

On them the model alone runs. What needs float64 (sums of statistics, factorisations) is computed on the CPU.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .model_class import first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["algebra_device", "computing_type", "in_float64", "multiplies", "onto", "resolve_device"]

_NATIVE = {
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
}
"""Half types → what a processor has that multiplies them, as ``torch.cpu.get_capabilities`` calls it."""


def resolve_device(name: str) -> str:
    """``auto`` as a device of this machine; any other name is tried out.

    Args:
        name: ``auto``, which takes CUDA where there is one and else the CPU, or a device as torch calls it, such as
            ``cuda:1`` or ``mps``.

    Returns:
        A device that torch can use here.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        there = "cpu, cuda, mps or auto" if torch.backends.mps.is_available() else "cpu, cuda or auto"
        raise ConfigError(f"device: {name!r} cannot be used here ({first_line(error)}); take {there}") from error
    return name


def multiplies(dtype: str, device: str) -> bool:
    """Whether a device multiplies a half type itself.

    Emulated, a pass forward takes five times as long as in float32 and the way back thirty times, measured on an x86
    processor with AVX2.

    Args:
        dtype: ``float16`` or ``bfloat16``.
        device: as :func:`resolve_device` gives it.
    """
    import torch

    if device.startswith("cuda"):
        return dtype == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type != "cpu":
        return True
    # A torch that cannot tell what the processor can do is too old to trust it with half types.
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in _NATIVE[dtype])


def computing_type(stored: str, device: str) -> str:
    """The type that a model is loaded in where none is asked for: as it is stored, if the device multiplies that.

    Args:
        stored: name of a type.
        device: as :func:`resolve_device` gives it.

    Returns:
        ``stored``, or ``float32``.
    """
    return "float32" if stored in _NATIVE and not multiplies(stored, device) else stored


def algebra_device(device: "str | torch.device") -> "torch.device":
    """Where the algebra of a model on a device runs: there, or on the CPU where float64 is missing."""
    import torch

    place = torch.device(device)
    return torch.device("cpu") if place.type == "mps" else place


def in_float64(tensor: "Tensor") -> "Tensor":
    """A tensor in float64 where its algebra runs."""
    # In two steps, for a move that also widens may widen before it moves.
    return tensor.to(algebra_device(tensor.device)).double()


def onto(tensor: "Tensor", device: "torch.device") -> "Tensor":
    """A tensor on a device, as wide as it can be there."""
    import torch

    narrow = device.type == "mps" and tensor.dtype == torch.float64
    return (tensor.float() if narrow else tensor).to(device)
