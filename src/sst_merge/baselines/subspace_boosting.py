"""Subspace Boosting (Skorobogat et al., arXiv:2506.16506): raise the small singular values of the merged update.

    Σᵢ wᵢ ΔWᵢ = U S Vᵀ,   c_j = Σ_{l ≤ j} σ_l / Σ_l σ_l,   j* = first j with c_j ≥ β
    ΔW = λ U max(S, σ_{j*}) Vᵀ

β 0 lifts every singular value to the largest one, β 1 changes nothing; the paper takes 0 to 0.02 on vision
transformers whose ΔW have full rank, and a LoRA sum of a few dozen singular values is flat enough at the upper end of
its range, 0.2. Only the part of the sum that is not numerically zero is boosted: the null space of a LoRA sum has no
directions of its own, and raising it would add noise. The SVD commutes with the core's rotations: exact in the core.
One adapter alone is boosted too: not ``exact``.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.spectral import significant_svd
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep, TwoStageSweep

__all__ = ["SubspaceBoostingOptions", "subspace_boosting"]


class SubspaceBoostingOptions(MethodOptions):
    """Options of Subspace Boosting.

    Attributes:
        strength: λ, multiplies the boosted sum.
        beta: β, share of the singular values' sum that stays as it is.
    """

    strength: float = 1.0
    beta: float = Field(default=0.2, ge=0.0, le=1.0)


@merge_method(
    name="subspace_boosting",
    summary="weighted sum with its small singular values raised",
    paper="arXiv:2506.16506",
    options=SubspaceBoostingOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("Subspace Boosting", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("Subspace Boosting", LESS, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("Subspace Boosting"),
    ),
)
def subspace_boosting(layer: Layer, options: SubspaceBoostingOptions, state: None) -> Tensor:
    """λ U max(S, σ_{j*}) Vᵀ of the weighted sum.

    Args:
        layer: core matrices of one module.
        options: λ and β.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    total = layer.weighted_sum()
    left, values, right = significant_svd(total)
    if not values.numel():
        return torch.zeros_like(total)
    share = values.cumsum(0) / values.sum()
    # A rounded last share may stay below β = 1.
    first = min(int((share < options.beta).sum()), values.numel() - 1)
    return options.strength * (left * values.clamp_min(values[first])) @ right
