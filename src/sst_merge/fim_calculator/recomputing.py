"""Layers computed twice to save memory, where the model was asked for it: ``model.gradient_checkpointing_enable()``.

transformers does so while a layer is in training mode alone, in which some layers also drop activations. Here they stay
in evaluation mode. What hooks inside a layer hand on in the backward pass comes from the first computation's graph, so
that the second one adds nothing to it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputing"]


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
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        again: Any = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        layer.forward = again
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own
