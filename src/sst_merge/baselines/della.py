"""DELLA-Merging (Deep et al., arXiv:2406.11617): drop small entries more often than large ones, rescale, elect, fuse.

Per row of n entries of τᵢ, r = 0 … n − 1 by falling magnitude (MAGPRUNE):

    p_r = p − ε/2 + (ε/n)·r,   p = 1 − density,   τ̃ = m τ / (1 − p_r),   m ~ Bernoulli(1 − p_r)
    ΔW = λ · disjoint mean of wᵢ τ̃ᵢ (signs elected as in TIES)

Defaults: ε 0.15 (the authors' and mergekit's), density 0.3; the paper sweeps p from 0.1 to 0.9. E[τ̃ᵢ] = τᵢ. One adapter
alone comes back in expectation only: not ``exact``. ``elect: false`` adds the τ̃ᵢ instead ("DELLA linear").

Others: mergekit keeps with probabilities from density − ε to density + ε (twice this spread), rescales by the sum of
magnitudes (``rescale: l1``) and divides by Σ wᵢ of the agreeing entries (``normalize: weights``).
"""

from collections.abc import Iterator

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.entrywise import Normalization, Rescaling, added, disjoint_merge, merge_dropped
from ..methods.parts.updates import row_blocks, scaled
from ..methods.sweeps import SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["DellaOptions", "della"]


class DellaOptions(StrengthOptions):
    """Options of DELLA-Merging.

    Attributes:
        density: mean probability to keep an entry, 1 − p.
        epsilon: ε, spread of the probabilities between the smallest and the largest entry of a row.
        rescale: divide by the probabilities, restore the sum of magnitudes, or neither.
        elect: elect signs and average what agrees; add everything otherwise.
        normalize: what the sum of agreeing entries is divided by; without ``elect`` nothing is.
    """

    density: float = Field(default=0.3, gt=0.0, le=1.0)
    epsilon: float = Field(default=0.15, ge=0.0, lt=1.0)
    rescale: Rescaling = "paper"
    elect: bool = True
    normalize: Normalization = "count"

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        low, high = self.density - self.epsilon / 2, self.density + self.epsilon / 2
        if low <= 0.0 or high > 1.0:
            raise ValueError(
                f"density ± epsilon/2 must lie in (0, 1], found {low:g} … {high:g}: "
                "choose a smaller epsilon or another density"
            )
        return self


@merge_method(
    name="della",
    summary="drop small entries more often than large ones, rescale, elect signs, average",
    paper="arXiv:2406.11617",
    options=DellaOptions,
    domain="delta",
    promises=Promises(exact=False, deterministic=False, homogeneous=True),
    sweeps=(MethodSweep("DELLA", TRIMMED, knob=SAFETY_WEIGHT),),
)
def della(layer: Layer, options: DellaOptions, state: None) -> Tensor:
    """λ · disjoint mean (or sum) of wᵢ τ̃ᵢ."""

    def elected(updates: Iterator[Tensor]) -> Tensor:
        return disjoint_merge(updates, layer.weights, normalize=options.normalize)

    def probability(tau: Tensor) -> Tensor:
        return _keep_probability(tau, options)

    merged = merge_dropped(layer, probability, options.rescale, elected if options.elect else added)
    return scaled(merged, options.strength)


def _keep_probability(tau: Tensor, options: DellaOptions) -> Tensor:
    """1 − p_r for every entry, (d_out, d_in)."""
    n = tau.shape[1]
    rank = torch.arange(n, dtype=tau.dtype, device=tau.device)
    by_rank = options.density + options.epsilon / 2 - options.epsilon / n * rank
    probability = torch.empty_like(tau)
    # In blocks that the processor's cache holds: whole matrices of 64-bit indices sort at a third of the speed.
    for rows in row_blocks((tau.shape[0], n)):
        probability[rows].scatter_(1, _falling_order(tau[rows]), by_rank.expand_as(tau[rows]))
    return probability


def _falling_order(block: Tensor) -> Tensor:
    """Columns of every row by falling magnitude, the first of equal ones first."""
    magnitudes = block.abs()
    if block.dtype != torch.float32 or block.device.type != "cpu":
        return magnitudes.argsort(dim=1, descending=True, stable=True)
    # The bits of a non-negative float are ordered as it is. With the column in the lower half of 64 bits plain sorting
    # gives the stable order, and NumPy sorts integers many at a time.
    import numpy as np

    keys = (0x7FFFFFFF - magnitudes.numpy().view(np.int32)).astype(np.int64) << 32
    keys |= np.arange(block.shape[1])
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    return torch.from_numpy(keys)
