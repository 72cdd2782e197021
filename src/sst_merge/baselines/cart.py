"""CART (Choi et al., arXiv:2412.12153), in the core space (Panariello et al., arXiv:2509.17786): centre, cut, add.

    τ̄ = (1/T) Σᵢ wᵢ τᵢ,   ΔW = τ̄ + λ Σᵢ SVD_k(wᵢ τᵢ − τ̄)

Updates are measured from their average, and of each only the k leading singular triplets are added back. Both steps
commute with the core's rotations: exact in the core. One adapter comes back exactly: it is the average.

Deviation: the paper keeps 8 % of a full-rank layer's triplets. A core has Σ rᵢ of them, of which 8 % can be none; by
default k is a T-th of them, as many as one adapter has where all ranks are equal.
"""

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.spectral import significant_svd
from ..methods.parts.updates import sum_of, weighted_updates
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["cart"]


class CartOptions(MethodOptions):
    """Options of CART.

    Attributes:
        strength: λ, multiplies what is added to the average.
        kept: share of the core's triplets that each centred update keeps, at least one; one part in T by default.
    """

    strength: float = 1.0
    kept: float | None = Field(default=None, gt=0.0, le=1.0)


@merge_method(
    name="cart",
    summary="average, and the leading singular triplets of every update measured from it",
    paper="arXiv:2412.12153, arXiv:2509.17786",
    options=CartOptions,
    promises=Promises(homogeneous=True),
    sweeps=(
        MethodSweep("CART", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("CART", LESS, knob="strength", base="aligned"),
    ),
)
def cart(layer: Layer, options: CartOptions, state: None) -> Tensor:
    """τ̄ + λ Σ SVD_k(w M − τ̄)."""
    count = len(layer.weights)
    average = sum_of(weighted_updates(layer)) / count
    share = 1.0 / count if options.kept is None else options.kept
    k = max(1, round(share * min(average.shape)))
    merged = average.clone()
    for update in weighted_updates(layer):
        left, values, right = significant_svd(update - average)
        merged += options.strength * (left[:, :k] * values[:k]) @ right[:k]
    return merged
