"""Magnitude pruning: the weighted sum of the updates' largest entries, without any sign election.

    ΔW = λ Σᵢ wᵢ τ̂ᵢ,   τ̂ᵢ = the top density·n entries of τᵢ by magnitude, per tensor

The ablation between Task Arithmetic (density 1) and TIES (which elects signs and averages); density 0.2 as there.
At a density below 1 one adapter alone does not come back whole: not ``exact``.

Others: PEFT's ``magnitude_prune`` prunes A and B apart (``magnitude_prune_svd`` is the faithful one).
"""

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.entrywise import trimmed_rows
from ..methods.parts.updates import by_rows, scaled, sum_of
from ..methods.sweeps import SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["MagnitudePruneOptions", "magnitude_prune"]


class MagnitudePruneOptions(MethodOptions):
    """Options of magnitude pruning.

    Attributes:
        strength: λ, multiplies the sum.
        density: share of every update's entries that is kept.
    """

    strength: float = 1.0
    density: float = Field(default=0.2, gt=0.0, le=1.0)


@merge_method(
    name="magnitude_prune",
    summary="weighted sum of every update's largest entries",
    paper="arXiv:2306.01708 (its trimming step)",
    options=MagnitudePruneOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(MethodSweep("Magnitude pruning", TRIMMED, knob=SAFETY_WEIGHT),),
)
def magnitude_prune(layer: Layer, options: MagnitudePruneOptions, state: None) -> Tensor:
    """λ Σ wᵢ τ̂ᵢ.

    Args:
        layer: ΔW of every adapter, one module.
        options: λ and density.
        state: unused.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    trimmed = trimmed_rows(layer, options.density)

    return by_rows(layer, lambda rows: scaled(sum_of(trimmed(rows)), options.strength))
