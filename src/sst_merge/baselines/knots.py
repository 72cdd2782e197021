"""KnOTS (Stoica et al., arXiv:2410.19735): align the updates by one joint SVD, then merge the aligned parts.

    [w₁τ₁ … w_Tτ_T] = U Σ [V₁ … V_T]ᵀ,   Pᵢ = Σ Vᵢᵀ  (k × d_in)
    ΔW = λ U · merge(P₁, …, P_T),   merge = TIES or DARE-TIES, per module

Defaults of the authors' code: TIES with density 0.2 (top 20 %), Σ on the V side, disjoint mean; their λ of 0.6 is left
to ``strength``. Adding the Pᵢ would be the weighted sum (``task_arithmetic``), so it is not offered here. The right
side keeps the layer's own inputs as coordinates, so this needs ΔW, not the core (``core_ties`` aligns both sides). A
sign flip of a column of U flips a row of every Pᵢ, so the result does not depend on it. U is found in an exact range of
the stack: random probes (fixed seed), as many as the rank needs, no SVD of a d_out × T·d_in matrix and no ΔW formed.
One adapter alone is trimmed too: not ``exact``.

Others: the authors' code trims all modules as one vector, not per module, and drops singular values below 1e-5; here
those go that are rounding noise beside the largest one (about 1e-5 of it in float32).
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core_space import numerical_rank
from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.draws import EntryDraws
from ..methods.parts.entrywise import disjoint_merge, drop, rescaled, trim
from ..methods.parts.spectral import significant_svd
from ..methods.parts.updates import scaled, sum_of
from ..methods.sweeps import LESS_OF_AVERAGES, SAFETY_WEIGHT, TRIMMED, MethodSweep, TwoStageSweep

__all__ = ["knots"]

# Probes of the first try per update, and probes that check what was found.
_PROBES, _CHECKS = 32, 8
# Rounding noise of an image stays below this multiple of ε·σ₁.
_NOISE = 10


class KnotsOptions(StrengthOptions):
    """Options of KnOTS.

    Attributes:
        merge: what merges the aligned parts; ``dare_ties`` draws from the seed.
        density: share of a part's entries that is kept.
    """

    merge: Literal["ties", "dare_ties"] = "ties"
    density: float = Field(default=0.2, gt=0.0, le=1.0)


@merge_method(
    name="knots",
    summary="joint SVD of the updates, then TIES or DARE on the aligned parts",
    paper="arXiv:2410.19735",
    options=KnotsOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("KnOTS", TRIMMED, knob=SAFETY_WEIGHT),
        MethodSweep("KnOTS", LESS_OF_AVERAGES, knob="strength", base="aligned"),
        TwoStageSweep.of_average("KnOTS"),
    ),
)
def knots(layer: Layer, options: KnotsOptions, state: None) -> Tensor:
    """λ U · merge(P₁, …, P_T)."""
    basis = _joint_range(layer)
    # The joint SVD inside the range: of the stack's R alone, a small square matrix however many updates there are.
    triangular = basis.new_zeros(0, basis.shape[1])
    for index, weight in enumerate(layer.weights):
        part = scaled(layer.times(index, basis, transposed=True), weight)
        triangular = torch.linalg.qr(torch.cat([triangular, part]), mode="r").R
    rotation, _, _ = significant_svd(triangular.T)
    if not rotation.shape[1]:
        return basis.new_zeros(layer.shape)
    directions = basis @ rotation
    merged = disjoint_merge(_reduced(layer, directions, options), layer.weights, normalize="count")
    return options.strength * (directions @ merged.T)


def _reduced(layer: Layer, directions: Tensor, options: KnotsOptions) -> Iterator[Tensor]:
    """The trimmed or thinned Pᵢᵀ, one at a time; rules on entries do not mind the transpose."""
    for index, weight in enumerate(layer.weights):
        part = scaled(layer.times(index, directions, transposed=True), weight)
        if options.merge == "ties":
            yield trim(part, options.density)
        else:
            yield rescaled(drop(part, options.density, EntryDraws(layer.draws(index))), part, options.density, "paper")


def _joint_range(layer: Layer) -> Tensor:
    """Orthonormal columns that span the columns of all updates, (d_out, s)."""
    d_out, d_in = layer.shape
    like = layer.rows(0, slice(0, 1))
    probes = torch.Generator().manual_seed(0)

    def images(size: int) -> Iterator[Tensor]:
        drawn = torch.randn(d_in, size, generator=probes, dtype=torch.float64).to(like)
        for index, weight in enumerate(layer.weights):
            # In another order for every update, so that opposed ones do not cancel in the sum.
            yield scaled(layer.times(index, drawn.roll(index, dims=1)), weight)

    size = min(d_out, _PROBES * len(layer.patches))
    while True:
        basis, triangular = torch.linalg.qr(sum_of(images(size)))
        if size == d_out:
            return basis
        # Probes beyond the rank gave rounding noise, which would only be carried along.
        inner, values, _ = torch.linalg.svd(triangular)
        basis = basis @ inner[:, : max(1, numerical_rank(values, _NOISE))]
        # ‖(1 − QQᵀ) τ Ω‖²/c is on average the squared norm of what the range misses (Halko et al., arXiv:0909.4061).
        fresh = list(images(_CHECKS))
        tolerance = 100 * torch.finfo(basis.dtype).eps * max(float(image.norm()) for image in fresh)
        if all(float((image - basis @ (basis.T @ image)).norm()) <= tolerance for image in fresh):
            return basis
        size = min(d_out, 2 * size)
