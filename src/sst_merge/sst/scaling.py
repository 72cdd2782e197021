"""Fishers on one scale: harm with benign, and the skills' own among each other.

A skill's F_i = G ⊗ A is collected on a few dozen samples. Its output factor G is the noisier one, and small wherever
the skill's model is certain of its answers, so that as it stands it gives up whole skills; and what one skill is
certain of must not outvote the others.
"""

from collections.abc import Mapping

from ..errors import FisherError
from ..fim_calculator import Fisher
from ..fim_calculator.structures import LayerFisher

__all__ = ["equal_traces", "equalised", "skill_layers"]


def skill_layers(
    fishers: Mapping[str, Fisher], *, output_shrinkage: float, equal: bool
) -> dict[str, tuple[LayerFisher, ...]]:
    """Every module's F_i in the order of the adapters, output factors shrunk and then of equal trace if asked for.

    Args:
        fishers: adapter → its F_i; at least one, all of the same modules.
        output_shrinkage: γ of :meth:`~.KroneckerFisher.output_shrunk`; other structures have no output factor and stay.
        equal: scale to equal traces (:func:`equal_traces`).

    Returns:
        Module → the adapters' layers.

    Raises:
        FisherError: a whole Fisher is zero and ``equal`` is asked for.
    """
    modules = next(iter(fishers.values())).layers
    layers = {
        module: tuple(fisher.layers[module].output_shrunk(output_shrinkage) for fisher in fishers.values())
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


def equalised(f_harm: Fisher, f_benign: Fisher) -> tuple[Fisher, float]:
    """Scale F_h so that both traces agree over all layers; μ and λ then mean the same on every model.

    Args:
        f_harm: F_h.
        f_benign: F_b.

    Returns:
        The scaled F_h and the factor.

    Raises:
        FisherError: a trace is zero, so that there is nothing to compare.
    """
    harm, benign = f_harm.trace(), f_benign.trace()
    if harm <= 0 or benign <= 0:
        which = "harm" if harm <= 0 else "benign"
        raise FisherError(f"the {which} Fisher is zero: no gradient reaches any merged module; check data and labels")
    return f_harm.scaled(benign / harm), benign / harm
