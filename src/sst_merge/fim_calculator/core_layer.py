"""One layer seen through its core space: y + U M Vᵀ x, and what of its gradient is handed on in the backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..errors import BaseModelError, FisherError
from ..lora_utils.layouts import is_packed, stored_weight
from .layer_parts import LayerPart, part_of

__all__ = ["CoreLayer", "CorePath", "Recorder", "device_of"]

Recorder = Callable[[Tensor, Tensor], None]
"""Called with Uᵀδ and Vᵀx of a layer's tokens."""


@dataclass
class CoreLayer:
    """One hooked module: its bases on its device, and the current core (None stands for M = 0)."""

    name: str
    space: CoreSpace
    left: Tensor
    right: Tensor
    part: LayerPart | None = None
    core: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module, name: str, space: CoreSpace) -> "CoreLayer":
        """A module of a model, if the space is one of it.

        Args:
            model: the base.
            name: of the module.
            space: of its adapters.

        Raises:
            BaseModelError: no such module, one without its weight, or of another shape.
            FisherError: its positions are no tokens.
        """
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise BaseModelError(f"module {name}: not in {type(model).__name__}; wrong base model?") from error
        if not space.kind.sees_tokens:
            raise FisherError(
                f"module {name}: {space.kind.described}, whose positions are no tokens, so that calibration data say "
                f"nothing of it token by token; leave it out (leave_out, --leave-out), or take a method without data"
            )
        weight = stored_weight(module)
        if weight is None or (device := device_of(module)).type == "meta":
            raise BaseModelError(
                f"module {name} ({type(module).__name__}): its weight is absent; expected a base that was loaded, "
                f"whole or with device_map"
            )
        found, expected = space.kind.weight_shape(module), space.kind.stored_shape(space.left.shape[0], space.d_in)
        if found != expected:
            raise BaseModelError(
                f"module {name} ({type(module).__name__}): weight of shape {found}, the adapters need {expected} "
                f"({space.kind}); these adapters were trained on another base model"
            )
        # Codes may be kept in a type of plain numbers, which says nothing of the activations' type.
        kind = torch.float32 if is_packed(module) else weight.dtype
        right = space.kind.input_basis(module, space.right)
        part = part_of(name, module, space.kind)
        return cls(name, space, space.left.to(kind).to(device), right.to(kind).to(device), part)

    def bases(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """U and V without its row of a bias, as far as inputs and outputs are here."""
        right = self.right[:-1] if self.space.bias else self.right
        return (self.left, right) if self.part is None else self.part.bases(self.left, right, x, y)


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: offloaded weights are nowhere until they are called."""
    weight: Any = stored_weight(module)
    hook: Any = getattr(module, "_hf_hook", None)
    place = getattr(hook, "execution_device", None) if weight.device.type == "meta" else None
    return torch.device(place) if place is not None else weight.device


class CorePath(torch.autograd.Function):
    """y + U M Vᵀ x, which hands (Uᵀδ, Vᵀx) on during the backward pass and shares Uᵀδ with the gradient of x."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        core: Tensor | None,
        layer: CoreLayer,
        record: Recorder | None,
    ) -> Tensor:
        """Of a layer's output y and input x."""
        kind, bias = layer.space.kind, layer.space.bias
        left, right = layer.bases(x, y)
        z = kind.project(kind.rows(x), right)
        if layer.part is not None and len(right) < layer.space.d_in:
            z = layer.part.summed(z)
        if bias:
            z = z + layer.right[-1]
        ctx.layer, ctx.record, ctx.bases = layer, record, (left, right)
        ctx.save_for_backward(z, core)
        if core is None:
            return y.view_as(y)
        # One fused product and sum: this runs in every layer and is bound by memory traffic.
        inner = (z @ core.to(z.dtype).T).flatten(0, -2)
        rows = kind.rows(y)
        moved = torch.addmm(rows.to(inner.dtype).flatten(0, -2), inner, left.T)
        return kind.unrows(moved.to(y.dtype).view_as(rows))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x and M."""
        (grad,) = grads
        layer: CoreLayer = ctx.layer
        left, right = ctx.bases
        kind = layer.space.kind
        z, core = ctx.saved_tensors
        e = kind.rows(grad).to(left.dtype) @ left
        if layer.part is not None and len(left) < len(layer.left):
            e = layer.part.summed(e)
        if ctx.record is not None:
            ctx.record(e, z)
        grad_x = grad_core = None
        if core is not None and ctx.needs_input_grad[1]:
            grad_x = kind.unrows((e @ core.to(e.dtype)) @ right.T).to(grad.dtype)
        if core is not None and ctx.needs_input_grad[2]:
            wide = torch.promote_types(e.dtype, torch.float32)
            grad_core = (e.flatten(0, -2).to(wide).T @ z.flatten(0, -2).to(wide)).to(core.dtype)
        return grad, grad_x, grad_core, None, None
