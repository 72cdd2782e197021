"""MergeAlign (Thakkar et al., arXiv:2411.06824): interpolate the expert's and the aligned model's vectors.

    ΔW = (1 − t) τ_expert + t τ_aligned

with τ_expert the adapters' weighted sum and τ_aligned = W_aligned − W_unaligned. From the weights of two bases
τ_aligned has full rank: its best update of ``vector_rank`` per module is kept, and the share of energy that is left is
reported; modules that no adapter touches are left out, and safety adapters count as experts. Where no pair of bases is
given, τ_aligned is the weighted sum of the safety adapters. Reference default: t = 0.5.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, merge_method
from ..methods.parts.alignment import Alignment, alignment_cores, alignment_source
from ..methods.sweeps import SHARES, MethodSweep

__all__ = ["MergeAlignOptions", "mergealign"]


class MergeAlignOptions(MethodOptions):
    """Options of MergeAlign.

    Attributes:
        strength: t, the aligned vector's share.
        vector_rank: rank of τ_aligned per module where it comes from weights.
        alignment: where τ_aligned comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
    """

    strength: float = Field(default=0.5, ge=0.0, le=1.0)
    vector_rank: int = Field(default=16, ge=1)
    alignment: Alignment = "auto"


def _prepare(problem: MergeProblem, options: MergeAlignOptions) -> Prepared:
    source = alignment_source(problem, options.alignment, "mergealign")
    spaces, vectors, energies = alignment_cores(problem, source, options.vector_rank)
    return Prepared((source, vectors), {"alignment": source, "vector_energy": energies}, (), spaces)


@merge_method(
    name="mergealign",
    summary="interpolation of the expert vector and the alignment vector",
    paper="arXiv:2411.06824",
    options=MergeAlignOptions,
    needs=Needs(aligned_base=True, roles=frozenset({"utility"})),
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("MergeAlign", SHARES, prepare_once=True),
        MethodSweep("MergeAlign", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), prepare_once=True, base="aligned"),
    ),
)
def mergealign(layer: Layer, options: MergeAlignOptions, state: tuple[str, Mapping[str, Tensor]]) -> Tensor:
    """(1 − t) M_expert + t M_aligned.

    Args:
        layer: core matrices of one module.
        options: t.
        state: source and core of τ_aligned by module.

    Returns:
        The merged core, (p, q).
    """
    source, vectors = state
    expert = layer.weighted_sum("utility" if source == "safety" else None)
    return expert + options.strength * (vectors[layer.module].to(expert) - expert)
