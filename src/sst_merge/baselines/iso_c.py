"""Iso-C (Marczak et al., arXiv:2502.04959): isotropic merging in the common subspace.

    Σᵢ wᵢ ΔWᵢ = U S Vᵀ,   ΔW = λ σ̄ U Vᵀ,   σ̄ = mean of S

The mean and the directions are those of the part of the sum that is not numerically zero: the paper's full-rank
transformers have min(d_out, d_in) singular values, a LoRA sum has Σ rᵢ, and its null space has no directions of its
own. The SVD commutes with the core's rotations: exact in the core. One adapter alone is flattened too: not ``exact``.
λ (the paper's α) is tuned there; 1 here.
"""

import torch
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.spectral import significant_svd
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["iso_c"]


@merge_method(
    name="iso_c",
    summary="weighted sum with all singular values made equal",
    paper="arXiv:2502.04959",
    options=StrengthOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("Iso-C", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("Iso-C", LESS, knob="strength", base="aligned"),
    ),
)
def iso_c(layer: Layer, options: StrengthOptions, state: None) -> Tensor:
    """λ σ̄ U Vᵀ of the weighted sum.

    Args:
        layer: core matrices of one module.
        options: λ.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    total = layer.weighted_sum()
    left, values, right = significant_svd(total)
    if not values.numel():
        return torch.zeros_like(total)
    return options.strength * values.mean() * (left @ right)
