"""TIES-Merging (Yadav et al., arXiv:2306.01708): trim, elect signs, average what agrees. On ΔW, per tensor.

    τ̂ᵢ = the top density·n entries of τᵢ by magnitude (others 0)
    γ  = sgn(Σᵢ wᵢ τ̂ᵢ)                                   per entry
    ΔW = λ · mean of {wᵢ τ̂ᵢ : sgn(wᵢ τ̂ᵢ) = γ}            per entry, the disjoint mean

Defaults of the paper: density 0.2, λ 1, unit weights. Entries that tie with the last kept one are kept; where the
updates cancel exactly no sign is elected and the entry is 0, as the paper's formula has it. A bias column (LoRA bias)
counts among the tensor's entries. At a density below 1 one adapter alone does not come back whole: not ``exact``.

Others: mergekit's default density is 1 and it divides by Σ wᵢ of the agreeing entries (``normalize: weights``);
mergekit and PEFT elect + where updates cancel; PEFT elects signs before weighting, and its ``ties`` works on A and B
apart (``ties_svd`` is the faithful one); the authors' code and FusionBench trim over the whole model, not per tensor.
``normalize: weights`` keeps the sign of all weights but not their common scale, so only ``count`` is homogeneous.
"""

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.entrywise import Normalization, disjoint_merge, trimmed_rows
from ..methods.parts.updates import by_rows, scaled
from ..methods.sweeps import LESS_OF_AVERAGES, SAFETY_WEIGHT, TRIMMED, MethodSweep, TwoStageSweep

__all__ = ["TiesOptions", "ties"]


class TiesOptions(MethodOptions):
    """Options of TIES-Merging.

    Attributes:
        strength: λ, multiplies the merged update.
        density: share of every update's entries that is kept.
        normalize: what the sum of agreeing entries is divided by.
    """

    strength: float = 1.0
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    normalize: Normalization = "count"


@merge_method(
    name="ties",
    summary="trim by magnitude, elect signs, average the entries that agree",
    paper="arXiv:2306.01708",
    options=TiesOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("TIES", TRIMMED, knob=SAFETY_WEIGHT),
        MethodSweep("TIES, density 1", TRIMMED, {"density": 1.0}, knob=SAFETY_WEIGHT),
        MethodSweep("TIES", LESS_OF_AVERAGES, knob="strength", base="aligned"),
        TwoStageSweep.of_average("TIES"),
    ),
)
def ties(layer: Layer, options: TiesOptions, state: None) -> Tensor:
    """λ · disjoint mean of the trimmed updates.

    Args:
        layer: ΔW of every adapter, one module.
        options: λ, density, divisor.
        state: unused.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    trimmed = trimmed_rows(layer, options.density)

    def rows_merged(rows: slice) -> Tensor:
        return scaled(disjoint_merge(trimmed(rows), layer.weights, normalize=options.normalize), options.strength)

    return by_rows(layer, rows_merged)
