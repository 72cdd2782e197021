"""Core-Space TIES (Panariello et al., arXiv:2509.17786): TIES on core matrices instead of on ΔW.

    wᵢ ΔWᵢ = U Mᵢ Vᵀ with U, V the joint principal directions of both sides,   ΔW = λ U · TIES(M₁, …, M_T) · Vᵀ

Entries of a core are strengths between principal directions, not weights of the layer, so this is another method than
``ties``, with p × q numbers a layer where that has d_out × d_in. The paper's reference bases are those of the stacked
Bᵢ and Aᵢ and depend on how an adapter factors its ΔW; the principal directions of the updates do not, up to signs,
which flip the same entries of every Mᵢ and change nothing. (Equal singular values leave a rotation open; they do not
occur in trained adapters.) Defaults as in TIES: density 0.2, disjoint mean. One adapter alone has a diagonal core, of
which trimming may take a part: not ``exact``.

Others: the authors' code trims the cores of all modules as one vector.
"""

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.entrywise import Normalization, disjoint_merge, trim
from ..methods.parts.spectral import aligned_cores
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["CoreTiesOptions", "core_ties"]


class CoreTiesOptions(MethodOptions):
    """Options of Core-Space TIES.

    Attributes:
        strength: λ, multiplies the merged update.
        density: share of every core's entries that is kept.
        normalize: what the sum of agreeing entries is divided by.
    """

    strength: float = 1.0
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    normalize: Normalization = "count"


@merge_method(
    name="core_ties",
    summary="TIES on core matrices in their joint principal directions",
    paper="arXiv:2509.17786",
    options=CoreTiesOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(MethodSweep("TIES on the core", TRIMMED, knob=SAFETY_WEIGHT),),
)
def core_ties(layer: Layer, options: CoreTiesOptions, state: None) -> Tensor:
    """λ · TIES of the aligned cores, turned back.

    Args:
        layer: core matrices of one module.
        options: λ, density, divisor.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    cores, left, right = aligned_cores(weighted_updates(layer))
    trimmed = (trim(core, options.density) for core in cores)
    merged = disjoint_merge(trimmed, layer.weights, normalize=options.normalize)
    return options.strength * (left @ merged @ right.T)
