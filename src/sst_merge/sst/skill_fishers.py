"""The skills' own Fishers, made fit to be added: what one skill is certain of must not outvote the others.

An F_i = G ⊗ A is collected on a few dozen samples of one skill. Its output factor G is the noisier one, and small
wherever the skill's model is certain of its answers, so that as it stands it gives up whole skills.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..errors import FisherError
from ..fim_calculator import Fisher
from ..fim_calculator.structures import KroneckerFisher, LayerFisher

__all__ = ["equal_traces", "output_shrunk", "skill_layers"]


def skill_layers(
    fishers: Mapping[str, Fisher], *, output_shrinkage: float, equal: bool
) -> dict[str, tuple[LayerFisher, ...]]:
    """Every module's F_i in the order of the adapters, output factors shrunk and then of equal trace if asked for.

    Args:
        fishers: adapter → its F_i; at least one, all of the same modules.
        output_shrinkage: γ of :func:`output_shrunk`; other structures have no output factor and stay.
        equal: scale to equal traces (:func:`equal_traces`).

    Returns:
        Module → the adapters' layers.

    Raises:
        FisherError: a whole Fisher is zero and ``equal`` is asked for.
    """
    modules = next(iter(fishers.values())).layers
    layers = {
        module: tuple(output_shrunk(fisher.layers[module], output_shrinkage) for fisher in fishers.values())
        for module in modules
    }
    if not equal:
        return layers
    for name, fisher in fishers.items():
        if fisher.trace() <= 0:
            raise FisherError(
                f"the Fisher of adapter {name!r} is zero: no gradient of its own data reaches any merged module; check "
                "its `data:` section, or set equal_traces: false to leave it out of the weighing"
            )
    return {module: equal_traces(of) for module, of in layers.items()}


def equal_traces(layers: tuple[LayerFisher, ...]) -> tuple[LayerFisher, ...]:
    """Scale one module's Fishers to their mean trace: no skill weighs more because its gradients are larger.

    Args:
        layers: the adapters' F_i of one module.

    Returns:
        The scaled F_i; one that is zero, of an adapter whose gradients do not reach this module, stays zero.
    """
    traces = [layer.trace() for layer in layers]
    mean = sum(traces) / len(traces)
    return tuple(layer.scaled(mean / own) if own > 0 else layer for layer, own in zip(layers, traces, strict=True))


def output_shrunk(layer: LayerFisher, share: float) -> LayerFisher:
    """(1−γ)G + γ (tr G / p) I in place of G: linear shrinkage (Ledoit and Wolf, 2004), which keeps the trace.

    Args:
        layer: F_i of one module.
        share: γ, 0 to 1. At 1 only what the module reads matters, as in RegMean (arXiv:2212.09849).

    Returns:
        The Fisher with the shrunk output factor; one of another structure than Kronecker as it is.
    """
    if not isinstance(layer, KroneckerFisher) or share == 0:
        return layer
    outer = layer.gradient_outer
    target = outer.diagonal().mean() * torch.eye(len(outer), dtype=outer.dtype)
    return replace(layer, gradient_outer=(1.0 - share) * outer + share * target)
