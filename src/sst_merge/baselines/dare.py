"""DARE (Yu et al., arXiv:2311.03099): drop entries of every ΔW at random, rescale, then add or merge by TIES.

    mᵢ ~ Bernoulli(density) per entry,   τ̃ᵢ = mᵢ ⊙ τᵢ / density,   density = 1 − p
    dare_linear:  ΔW = λ Σᵢ wᵢ τ̃ᵢ
    dare_ties:    ΔW = λ · disjoint mean of wᵢ τ̃ᵢ (signs elected as in TIES, no trimming)

Default of the paper: p = 0.9, so density 0.1. E[τ̃ᵢ] = τᵢ, so ``dare_linear`` averages to the weighted sum over seeds.
One adapter alone comes back in expectation only: not ``exact``. The draws of a module depend on the seed, the module's
name and the adapter's name, not on the weights, the other adapters or their order.

Others: mergekit rescales by the sum of magnitudes (``rescale: l1``) and its ``dare_ties`` adds the agreeing entries
without dividing (``normalize: none``); PEFT's ``dare_linear`` and ``dare_ties`` drop entries of A and B apart
(``dare_linear_svd`` and ``dare_ties_svd`` are the faithful ones).
"""

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.entrywise import Normalization, Rescaling, added, disjoint_merge, merge_dropped
from ..methods.parts.updates import scaled
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, TRIMMED, MethodSweep, TwoStageSweep

__all__ = ["dare_linear", "dare_ties"]


class DareLinearOptions(StrengthOptions):
    """Options of drop and rescale.

    Attributes:
        density: probability to keep an entry, 1 − p.
        rescale: divide by the density, restore the sum of magnitudes, or neither.
    """

    density: float = Field(default=0.1, gt=0.0, le=1.0)
    rescale: Rescaling = "paper"


class DareTiesOptions(DareLinearOptions):
    """Options of drop and rescale followed by sign election.

    Attributes:
        normalize: what the sum of agreeing entries is divided by.
    """

    normalize: Normalization = "count"


@merge_method(
    name="dare_linear",
    summary="drop entries at random, rescale, add",
    paper="arXiv:2311.03099",
    options=DareLinearOptions,
    domain="delta",
    promises=Promises(exact=False, deterministic=False, homogeneous=True),
    sweeps=(
        MethodSweep("DARE linear", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("DARE linear, density 0.5", SUMS, {"density": 0.5}, knob=SAFETY_WEIGHT),
        MethodSweep("DARE linear", LESS, {"density": 0.5}, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("DARE linear", {"density": 0.5}),
    ),
)
def dare_linear(layer: Layer, options: DareLinearOptions, state: None) -> Tensor:
    """λ Σ wᵢ τ̃ᵢ."""
    merged = merge_dropped(layer, lambda _: options.density, options.rescale, added)
    return scaled(merged, options.strength)


@merge_method(
    name="dare_ties",
    summary="drop entries at random, rescale, elect signs, average the entries that agree",
    paper="arXiv:2311.03099",
    options=DareTiesOptions,
    domain="delta",
    promises=Promises(exact=False, deterministic=False, homogeneous=True),
    sweeps=(MethodSweep("DARE TIES", TRIMMED, knob=SAFETY_WEIGHT),),
)
def dare_ties(layer: Layer, options: DareTiesOptions, state: None) -> Tensor:
    """λ · disjoint mean of wᵢ τ̃ᵢ."""

    def elected(updates: Iterator[Tensor]) -> Tensor:
        return disjoint_merge(updates, layer.weights, normalize=options.normalize)

    return scaled(merge_dropped(layer, lambda _: options.density, options.rescale, elected), options.strength)
