"""Model Stock (Jang et al., arXiv:2403.19522): how far to go from the base towards the average, from angles alone.

    cos θ = mean over pairs of cos(wᵢ τᵢ, wⱼ τⱼ),   t = N cos θ / (1 + (N − 1) cos θ)
    ΔW = λ t · (1/N) Σᵢ wᵢ τᵢ                            per layer

N counts the adapters that touch the layer; one alone has no angle and keeps its update. Inner products of cores are
those of the updates, so the core form is lossless. t is clipped to [0, 1]: updates that point apart (cos θ ≤ 0) leave
the base as it is, where the formula would leave the segment between base and average or divide by 0. The rule needs at
least two adapters. The paper averages fine-tunings of *one* task from different seeds, whose angles are small; of
adapters for different tasks, which are nearly orthogonal, it keeps little.

Others: mergekit also takes the mean over pairs, does not clip t, and can take angles row by row (``filter_wise``).
"""

from itertools import combinations

import torch
from torch import Tensor

from ..errors import MergeError
from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import AVERAGES, SAFETY_WEIGHT, MethodSweep

__all__ = ["model_stock"]


@merge_method(
    name="model_stock",
    summary="the average, shortened by the angles between the updates",
    paper="arXiv:2403.19522",
    options=StrengthOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(MethodSweep("Model Stock", AVERAGES, knob=SAFETY_WEIGHT),),
)
def model_stock(layer: Layer, options: StrengthOptions, state: None) -> Tensor:
    """λ t · mean of the updates.

    Args:
        layer: core matrices of one module.
        options: λ.
        state: unused.

    Returns:
        The merged core, (p, q).

    Raises:
        MergeError: fewer than two adapters.
    """
    if len(layer.patches) < 2:
        raise MergeError("method 'model_stock' reads the angle between updates: give it at least two adapters, found 1")
    norms = [(tau, tau.norm()) for tau in weighted_updates(layer)]
    units = [tau / norm for tau, norm in norms if norm > 0]
    n = len(units)
    if n < 2:
        return options.strength * layer.weighted_sum()
    cosine = float(torch.stack([(a * b).sum() for a, b in combinations(units, 2)]).mean())
    ratio = n * cosine / (1.0 + (n - 1) * cosine) if cosine > 0 else 0.0
    return options.strength * min(1.0, ratio) / n * layer.weighted_sum()
