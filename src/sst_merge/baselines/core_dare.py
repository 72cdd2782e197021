"""Core-Space DARE (Panariello et al., arXiv:2509.17786): DARE on core matrices instead of on ΔW.

    wᵢ ΔWᵢ = U Mᵢ Vᵀ with U, V the joint principal directions of both sides,   M̃ᵢ = mᵢ ⊙ Mᵢ / density
    ΔW = λ U · merge(M̃₁, …, M̃_T) · Vᵀ,   merge = their sum, or TIES' sign election and disjoint mean

Another method than ``dare_linear`` and ``dare_ties``: whole strengths between principal directions are dropped, so the
result stays low-rank. With the sum the expectation over seeds is the weighted sum. The bases are those of
``core_ties``: independent of how an adapter factors its ΔW. Default: p = 0.9 as in DARE, density 0.1. One adapter alone
comes back in expectation only: not ``exact``.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.draws import EntryDraws
from ..methods.parts.entrywise import Rescaling, disjoint_merge, drop, rescaled
from ..methods.parts.spectral import aligned_cores
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["core_dare"]


class CoreDareOptions(StrengthOptions):
    """Options of Core-Space DARE.

    Attributes:
        density: probability to keep an entry, 1 − p.
        rescale: divide by the density, restore the sum of magnitudes, or neither.
        merge: add the cores, or elect signs and average the entries that agree.
    """

    density: float = Field(default=0.1, gt=0.0, le=1.0)
    rescale: Rescaling = "paper"
    merge: Literal["linear", "ties"] = "linear"


@merge_method(
    name="core_dare",
    summary="DARE on core matrices in their joint principal directions",
    paper="arXiv:2509.17786",
    options=CoreDareOptions,
    promises=Promises(exact=False, deterministic=False, homogeneous=True),
    sweeps=(MethodSweep("DARE on the core", SUMS, knob=SAFETY_WEIGHT),),
)
def core_dare(layer: Layer, options: CoreDareOptions, state: None) -> Tensor:
    """λ · DARE of the aligned cores, turned back."""
    cores, left, right = aligned_cores(weighted_updates(layer))
    kept = [
        rescaled(drop(core, options.density, EntryDraws(layer.draws(index))), core, options.density, options.rescale)
        for index, core in enumerate(cores)
    ]
    if options.merge == "ties":
        merged = disjoint_merge(kept, layer.weights, normalize="count")
    else:
        merged = sum(kept, start=cores[0].new_zeros(cores[0].shape))
    return options.strength * (left @ merged @ right.T)
