"""WUDI-Merging (Cheng et al., arXiv:2503.08099): interfere least where the adapters themselves read.

    ΔW = λ argmin_X Σᵢ ‖(X − wᵢ τᵢ) τᵢᵀ‖² / ‖τᵢ‖²  =  λ (Σᵢ wᵢ τᵢ Gᵢ)(Σᵢ Gᵢ)⁻¹,   Gᵢ = τᵢᵀ τᵢ / ‖τᵢ‖²

A linear layer's update lies in the span of the inputs it was trained on, so that τᵢ stands for them: RegMean without
data. The rows of the minimiser lie in the span of the adapters' rows: exact in the core.

Deviations: the authors take 300 steps of Adam (1e-5) from Σ wᵢ τᵢ; this is where such steps end. Where adapters read
almost the same directions that end is badly determined, and the steps never get there; ``damping``, relative to the
mean diagonal of Σ Gᵢ, holds the result to Σ wᵢ τᵢ instead. One adapter comes back exactly.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep, TwoStageSweep

__all__ = ["wudi"]


class WudiOptions(StrengthOptions):
    """Options of WUDI-Merging.

    Attributes:
        damping: ρ, how firmly directions that no adapter reads strongly are held to the weighted sum.
    """

    damping: float = Field(default=1e-3, gt=0.0)


@merge_method(
    name="wudi",
    summary="the update that differs least from each adapter's on the adapter's own rows",
    paper="arXiv:2503.08099",
    options=WudiOptions,
    promises=Promises(homogeneous=True),
    sweeps=(
        MethodSweep("WUDI-Merging", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("WUDI-Merging", LESS, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("WUDI-Merging"),
    ),
)
def wudi(layer: Layer, options: WudiOptions, state: None) -> Tensor:
    """λ (Σ w M G + ρ Σ w M)(Σ G + ρ I)⁻¹."""
    first = layer.patches[0]
    gram = torch.zeros(first.shape[1], first.shape[1], dtype=torch.float64, device=first.device)
    pull, total = torch.zeros_like(first, dtype=torch.float64), torch.zeros_like(first, dtype=torch.float64)
    for patch, weight in zip(layer.patches, layer.weights, strict=True):
        tau = patch.double()
        size = tau.square().sum()
        if not float(size):
            continue
        own = tau.T @ tau / size
        gram, pull, total = gram + own, pull + weight * tau @ own, total + weight * tau
    ridge = options.damping * gram.diagonal().mean()
    if not float(ridge):
        return torch.zeros_like(first)
    gram.diagonal().add_(ridge)
    merged = torch.linalg.solve(gram, (pull + ridge * total).T).T
    return (options.strength * merged).to(first)
