"""Model Breadcrumbs (Davari and Belilovsky, arXiv:2312.06795): drop the smallest entries and the outliers.

    τ̂ᵢ = τᵢ without its γ·n largest and its (1 − density − γ)·n smallest entries by magnitude, per tensor
    ΔW = λ Σᵢ wᵢ τ̂ᵢ

Defaults: γ 0.01 and density 0.14, so that the smallest 85 % go, which is the paper's setting (its β); its λ of 0.3 is
left to ``strength``. Entries that tie with the smallest outlier go with it, entries that tie with the smallest kept one
stay. One adapter alone does not come back whole: not ``exact``.

Others: mergekit's default density is 1, which switches its mask off; it gives up outliers' places where density and γ
exceed 1 together, which is refused here; its ``breadcrumbs_ties`` also elects signs.
"""

from collections.abc import Iterator

from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.entrywise import at_least
from ..methods.parts.thresholds import update_thresholds
from ..methods.parts.updates import by_rows, scaled, sum_of
from ..methods.sweeps import SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["BreadcrumbsOptions", "breadcrumbs"]


class BreadcrumbsOptions(MethodOptions):
    """Options of Model Breadcrumbs.

    Attributes:
        strength: λ, multiplies the sum.
        density: share of every update's entries that is kept.
        gamma: γ, share of the largest entries that is dropped.
    """

    strength: float = 1.0
    density: float = Field(default=0.14, gt=0.0, le=1.0)
    gamma: float = Field(default=0.01, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.density + self.gamma > 1.0 + 1e-12:
            raise ValueError(f"density + gamma must not exceed 1, found {self.density:g} + {self.gamma:g}")
        return self


@merge_method(
    name="breadcrumbs",
    summary="weighted sum without every update's smallest entries and outliers",
    paper="arXiv:2312.06795",
    options=BreadcrumbsOptions,
    domain="delta",
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(MethodSweep("Breadcrumbs", SUMS, knob=SAFETY_WEIGHT),),
)
def breadcrumbs(layer: Layer, options: BreadcrumbsOptions, state: None) -> Tensor:
    """λ Σ wᵢ τ̂ᵢ.

    Args:
        layer: ΔW of every adapter, one module.
        options: λ, density and γ.
        state: unused.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    n = layer.shape[0] * layer.shape[1]
    outliers = int(options.gamma * n)
    kept = max(1, int(options.density * n))
    count = len(layer.patches)
    low = update_thresholds(layer, [min(n, outliers + kept)] * count)
    high = update_thresholds(layer, [outliers] * count) if outliers else None

    def without_tails(rows: slice) -> Iterator[Tensor]:
        for index, weight in enumerate(layer.weights):
            block = layer.rows(index, rows)
            crumbs = at_least(block, low[index])
            yield scaled(crumbs if high is None else crumbs - at_least(block, high[index]), weight)

    return by_rows(layer, lambda rows: scaled(sum_of(without_tails(rows)), options.strength))
