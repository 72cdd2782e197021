"""Devices of this machine by name, and what one of them lacks: Apple's GPUs (mps) have no float64.

On them the model alone runs. What needs float64 (sums of statistics, factorisations) is computed on the CPU.
"""

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .model_class import first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["algebra_device", "in_float64", "onto", "resolve_device"]


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
