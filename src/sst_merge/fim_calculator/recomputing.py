"""Layers computed twice to save memory, where the model was asked for it: ``model.gradient_checkpointing_enable()``.

transformers does so while a layer is in training mode alone, in which some layers also drop activations. Here they stay
in evaluation mode. What hooks inside a layer hand on in the backward pass comes from the first computation's graph, so
that the second one adds nothing to it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputing", "replaced_forward"]


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Keep only the inputs of the layers that the model was asked to compute again, while the block runs.

    Args:
        model: of transformers; one that was not asked stays as it is.

    Yields:
        Nothing.
    """
    # A model of transformers has brought the class of its layers along.
    kinds: Any = sys.modules.get("transformers.modeling_layers")
    kind = getattr(kinds, "GradientCheckpointingLayer", None)
    layers = [] if kind is None else [m for m in model.modules() if isinstance(m, kind) and m.gradient_checkpointing]
    again: list[Any] = [
        partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False) for layer in layers
    ]
    with replaced_forward(dict(zip(layers, again, strict=True))):
        yield


@contextmanager
def replaced_forward(made: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Another forward for some modules; what stood there, which may be a library's wrapper, comes back.

    Args:
        made: module → what it computes in the block.

    Yields:
        Nothing.
    """
    before = [vars(module).get("forward") for module in made]
    try:
        for module, forward in made.items():
            module.forward = forward
        yield
    finally:
        for module, own in zip(made, before, strict=True):
            del module.forward
            if own is not None:
                module.forward = own
