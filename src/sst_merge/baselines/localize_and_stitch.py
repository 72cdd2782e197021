"""Localize-and-Stitch (He et al., arXiv:2408.13656), the dataless form: a few entries of each, averaged on overlaps.

    mᵢ = 1{ τᵢ is among the top density·n entries by magnitude },   ΔW = λ Σᵢ mᵢ ⊙ wᵢ τᵢ / Σⱼ mⱼ      per entry

where no mask claims an entry it is 0. TIES without its election of signs. The authors' 5 % is the default; their
other form trains each mask on data, and is not here.

Deviations: the authors take the largest entries of the whole model, here they are those of every tensor, as in
``ties``; entries that tie with the last kept one are kept, which they drop. At a density below 1 one adapter alone does
not come back whole: not ``exact``.
"""

from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.entrywise import trimmed_rows
from ..methods.parts.updates import by_rows, scaled
from ..methods.sweeps import LESS_OF_AVERAGES, SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["localize_and_stitch"]


class LocalizeAndStitchOptions(StrengthOptions):
    """Options of Localize-and-Stitch.

    Attributes:
        density: share of every update's entries that its mask claims.
    """

    density: float = Field(default=0.05, gt=0.0, le=1.0)


@merge_method(
    name="localize_and_stitch",
    summary="the largest entries of every update, averaged where several claim one",
    paper="arXiv:2408.13656",
    options=LocalizeAndStitchOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("Localize-and-Stitch", TRIMMED, knob=SAFETY_WEIGHT),
        MethodSweep("Localize-and-Stitch", LESS_OF_AVERAGES, knob="strength", base="aligned"),
    ),
)
def localize_and_stitch(layer: Layer, options: LocalizeAndStitchOptions, state: None) -> Tensor:
    """λ Σ m w τ / Σ m."""
    trimmed = trimmed_rows(layer, options.density)

    def stitched(rows: slice) -> Tensor:
        updates = trimmed(rows)
        total = next(updates).clone()
        claims = (total != 0).to(total.dtype)
        for update in updates:
            total += update
            claims += update != 0
        return scaled(total.div_(claims.clamp_min_(1.0)), options.strength)

    return by_rows(layer, stitched)
