"""Model Breadcrumbs (Davari and Belilovsky, arXiv:2312.06795): drop the smallest entries and the outliers.

    τ̂ᵢ = τᵢ without its γ·n largest and its (1 − density − γ)·n smallest entries by magnitude, per tensor
    ΔW = λ Σᵢ wᵢ τ̂ᵢ

Defaults: γ 0.01 and density 0.14, so that the smallest 85 % go, which is the paper's setting (its β); its λ of 0.3 is
left to ``strength``. Entries that tie with the smallest outlier go with it, entries that tie with the smallest kept one
stay. One adapter alone does not come back whole: not ``exact``.

Others: mergekit's default density is 1, which switches its mask off; it gives up outliers' places where density and γ
exceed 1 together, which is refused here; its ``breadcrumbs_ties`` also elects signs.
"""

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from ..registry import Layer, MethodOptions, Promises, merge_method
from ._entrywise import magnitude_threshold

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
    total = layer.patches[0].new_zeros(layer.patches[0].shape)
    for tau, weight in zip(layer.patches, layer.weights, strict=True):
        total += weight * _without_tails(tau, options)
    return options.strength * total


def _without_tails(tau: Tensor, options: BreadcrumbsOptions) -> Tensor:
    n = tau.numel()
    outliers = int(options.gamma * n)
    kept = max(1, int(options.density * n))
    magnitudes = tau.abs()
    wanted = magnitudes >= magnitude_threshold(tau, min(n, outliers + kept))
    if outliers:
        wanted &= magnitudes < magnitude_threshold(tau, outliers)
    return torch.where(wanted, tau, 0.0)
