"""KnOTS (Stoica et al., arXiv:2410.19735): align the updates by one joint SVD, then merge the aligned parts.

    [w₁τ₁ … w_Tτ_T] = U Σ [V₁ … V_T]ᵀ,   Pᵢ = Σ Vᵢᵀ  (k × d_in)
    ΔW = λ U · merge(P₁, …, P_T),   merge = TIES or DARE-TIES, per module

Defaults of the authors' code: TIES with density 0.2 (top 20 %), Σ on the V side, disjoint mean; their λ of 0.6 is left
to ``strength``. Adding the Pᵢ would be the weighted sum (``task_arithmetic``), so it is not offered here. The right
side keeps the layer's own inputs as coordinates, so this needs ΔW, not the core (``core_ties`` aligns both sides). A
sign flip of a column of U flips a row of every Pᵢ, so the result does not depend on it. U is found in an exact range of
the stack: random probes (fixed seed), as many as the rank needs, and no SVD of a d_out × T·d_in matrix.
One adapter alone is trimmed too: not ``exact``.

Others: the authors' code trims all modules as one vector, not per module, and drops singular values below 1e-5; here
those go that are rounding noise beside the largest one (about 1e-5 of it in float32).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..registry import Layer, MethodOptions, Promises, merge_method
from ._entrywise import disjoint_merge, drop, rescaled, trim, weighted_updates
from ._spectral import significant_svd

__all__ = ["KnotsOptions", "knots"]


class KnotsOptions(MethodOptions):
    """Options of KnOTS.

    Attributes:
        strength: λ, multiplies the merged update.
        merge: what merges the aligned parts; ``dare_ties`` draws from the seed.
        density: share of a part's entries that is kept.
    """

    strength: float = 1.0
    merge: Literal["ties", "dare_ties"] = "ties"
    density: float = Field(default=0.2, gt=0.0, le=1.0)


@merge_method(
    name="knots",
    summary="joint SVD of the updates, then TIES or DARE on the aligned parts",
    paper="arXiv:2410.19735",
    options=KnotsOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
)
def knots(layer: Layer, options: KnotsOptions, state: None) -> Tensor:
    """λ U · merge(P₁, …, P_T).

    Args:
        layer: ΔW of every adapter, one module.
        options: λ, what merges the parts, density.
        state: unused.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    basis = _joint_range(layer)
    parts = [basis.T @ tau for tau in weighted_updates(layer)]
    # The joint SVD inside the range: QR first leaves a small square matrix, however long the stack is.
    triangular = torch.linalg.qr(torch.cat(parts, dim=1).T, mode="r").R
    rotation, _, _ = significant_svd(triangular.T)
    if not rotation.shape[1]:
        return torch.zeros_like(layer.patches[0])
    aligned = [rotation.T @ part for part in parts]
    if options.merge == "ties":
        reduced = [trim(part, options.density) for part in aligned]
    else:
        reduced = [
            rescaled(drop(part, options.density, layer.generator), part, options.density, "paper") for part in aligned
        ]
    merged = disjoint_merge(reduced, layer.weights, normalize="count")
    return options.strength * ((basis @ rotation) @ merged)


def _joint_range(layer: Layer) -> Tensor:
    """Orthonormal columns that span the columns of all updates, (d_out, s)."""
    d_out, d_in = layer.patches[0].shape
    largest = max(float(tau.norm()) for tau in weighted_updates(layer))
    size = min(d_out, 32 * len(layer.patches))
    while True:
        probes = torch.Generator().manual_seed(0)
        image = layer.patches[0].new_zeros(d_out, size)
        for tau in weighted_updates(layer):
            image += tau @ torch.randn(d_in, size, generator=probes, dtype=torch.float64).to(tau)
        basis: Tensor = torch.linalg.qr(image)[0]
        if size == d_out:
            return basis
        tolerance = 100 * torch.finfo(basis.dtype).eps * largest
        if all(float((tau - basis @ (basis.T @ tau)).norm()) <= tolerance for tau in weighted_updates(layer)):
            return basis
        size = min(d_out, 2 * size)
