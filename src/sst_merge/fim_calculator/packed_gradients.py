"""Whether layers that keep codes in place of weights give true gradients: asked once, ahead of all passes."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import BaseModelError
from ..lora_utils.layouts import is_packed, shape_of_layer
from .core_layer import device_of

__all__ = ["check_packed_layers", "refuse_lost_gradient"]

_NONE = "its kernel gives no gradients"
_FALSE = "its gradients are not those of what it computes (does it round its inputs?)"
_TOKENS = 4
_ERROR = 0.2
"""Layers may round their inputs to 8 bits and give gradients as if they did not: that moves outputs by a hundredth."""

_faults: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def check_packed_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Try every packed layer of a model that was not tried before, and refuse one without true gradients.

    Some kernels decide at their first call, and for good, whether they have gradients. So all layers are called with
    gradients first, also where the pass to come needs none; only a pass that needs them is refused.

    Args:
        model: before anything is hooked to it.
        dtype: of its activations.

    Raises:
        BaseModelError: gradients are enabled, and a layer gives none or false ones.
    """
    for name, layer in model.named_modules():
        if not is_packed(layer):
            continue
        if layer not in _faults:
            _faults[layer] = _fault(layer, dtype)
        if (fault := _faults[layer]) is not None and torch.is_grad_enabled():
            raise BaseModelError(_refusal(name, layer, fault))


def refuse_lost_gradient(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """A hook of a packed layer, for kernels that are others for many tokens than for the few of the trial.

    Raises:
        BaseModelError: inside the hook, where inputs have gradients and outputs have none.
    """

    def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.is_grad_enabled() and args and args[0].requires_grad and not output.requires_grad:
            raise BaseModelError(_refusal(name, layer, _NONE))

    return hook


def _refusal(name: str, layer: nn.Module, fault: str) -> str:
    return (
        f"module {name} ({type(layer).__name__}): {fault}; name another kernel (backend in quantization, for GPTQ and "
        f"AWQ), give the plain model (--quantization 4bit makes it small), or take a method without gradients, such as "
        f"regmean"
    )


def _fault(layer: nn.Module, dtype: torch.dtype) -> str | None:
    """What is wrong with the gradients of a linear layer: ⟨∂⟨u, Wx⟩/∂x, z⟩ = ⟨u, Wz⟩, here with u = Wz / ‖Wz‖."""
    shape = shape_of_layer(layer)
    assert shape is not None
    generator = torch.Generator().manual_seed(0)
    drawn: Any = torch.randn(2, 1, _TOKENS, shape.d_in, generator=generator).to(device_of(layer), dtype)
    x, z = drawn.unbind()
    with torch.enable_grad():
        y = layer(x.requires_grad_(True))
    if not y.requires_grad:
        return _NONE
    with torch.no_grad():
        moved = (layer(z) - layer(torch.zeros_like(z))).float()
    length = moved.norm()
    if length == 0:
        return None
    try:
        gradients: Any = torch.autograd.grad(y, x, (moved / length).to(y.dtype), allow_unused=True)
    except NotImplementedError:
        return _NONE
    if gradients[0] is None:
        return _NONE
    found = (gradients[0].float() * z.float()).sum()
    return None if abs(found - length) <= _ERROR * length else _FALSE
