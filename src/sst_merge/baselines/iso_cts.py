"""Iso-CTS (Marczak et al., arXiv:2502.04959): isotropic merging in common and task-specific subspaces.

With R the rank of Σᵢ wᵢ τᵢ = U S Vᵀ and T tasks, k = R − T·n common directions, n = round((1 − common)·R / T) per task:

    τ̄ᵢ = wᵢ τᵢ − U_k U_kᵀ wᵢ τᵢ,   Uᵢ, Sᵢ, Vᵢ = its n leading singular triplets
    U* = polar[U_k U₁ … U_T],  V* = polar[V_k V₁ … V_T],  σ̄ = mean of (S_k, S₁, …, S_T)
    ΔW = λ σ̄ U* V*ᵀ

Default of the paper: common 0.8. R is the numerical rank of the LoRA sum where the paper has min(d_out, d_in). Every
step commutes with the core's rotations: exact in the core. One adapter alone is flattened too: not ``exact``.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.spectral import polar, significant_svd
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["IsoCtsOptions", "iso_cts"]


class IsoCtsOptions(MethodOptions):
    """Options of Iso-CTS.

    Attributes:
        strength: λ, multiplies the merged update.
        common: share of the directions that belongs to the sum; the rest is divided among the tasks.
    """

    strength: float = 1.0
    common: float = Field(default=0.8, ge=0.0, le=1.0)


@merge_method(
    name="iso_cts",
    summary="equal singular values on common and task-specific directions",
    paper="arXiv:2502.04959",
    options=IsoCtsOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(MethodSweep("Iso-CTS", SUMS, knob=SAFETY_WEIGHT),),
)
def iso_cts(layer: Layer, options: IsoCtsOptions, state: None) -> Tensor:
    """λ σ̄ U* V*ᵀ.

    Args:
        layer: core matrices of one module.
        options: λ and the common share.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    total = layer.weighted_sum()
    left, values, right = significant_svd(total)
    if not values.numel():
        return torch.zeros_like(total)
    tasks, rank = len(layer.patches), values.numel()
    per_task = min(round((1.0 - options.common) * rank / tasks), rank // tasks)
    common = rank - per_task * tasks
    lefts, spectra, rights = [left[:, :common]], [values[:common]], [right[:common]]
    for tau in weighted_updates(layer):
        own_left, own_values, own_right = significant_svd(tau - lefts[0] @ (lefts[0].T @ tau))
        lefts.append(own_left[:, :per_task])
        spectra.append(own_values[:per_task])
        rights.append(own_right[:per_task])
    merged = polar(torch.cat(lefts, dim=1)) @ polar(torch.cat(rights).T).T
    return options.strength * torch.cat(spectra).mean() * merged
