"""Consensus Task Arithmetic (Wang et al., arXiv:2405.07813): the sum, where several adapters have a say in it.

    τ = Σᵢ wᵢ τᵢ,   mᵢ = 1{ |wᵢ τᵢ| ≥ t · |τ − wᵢ τᵢ| },   ΔW = λ τ ⊙ 1{ Σᵢ mᵢ ≥ k }

mᵢ (a TALL mask) marks the entries that adapter i decides. What nobody decides, and, for k = 2, what one adapter alone
decides, is left out. The paper's k is 2, its t is tuned per task in {0.2 … 0.6}; 0.4 here for all. With fewer than k
adapters k is their number, so that one comes back as it is.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.updates import by_rows, scaled, sum_of, weighted_rows
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep

__all__ = ["consensus_ta"]


class ConsensusOptions(StrengthOptions):
    """Options of Consensus Task Arithmetic.

    Attributes:
        threshold: t, how large an adapter's own share must be beside all others' to count.
        agreeing: k, how many adapters must count.
    """

    threshold: float = Field(default=0.4, ge=0.0)
    agreeing: int = Field(default=2, ge=1)


@merge_method(
    name="consensus_ta",
    summary="weighted sum of the entries on which several adapters have a say",
    paper="arXiv:2405.07813",
    options=ConsensusOptions,
    domain="delta",
    promises=Promises(homogeneous=True),
    sweeps=(
        MethodSweep("Consensus TA", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("Consensus TA", LESS, knob="strength", base="aligned"),
    ),
)
def consensus_ta(layer: Layer, options: ConsensusOptions, state: None) -> Tensor:
    """λ τ where at least k masks agree."""
    count = len(layer.weights)
    wanted = min(options.agreeing, count)

    def agreed(rows: slice) -> Tensor:
        parts = list(weighted_rows(layer, rows))
        total = sum_of(parts)
        votes = torch.zeros_like(total, dtype=torch.int32)
        for part in parts:
            votes += part.abs() >= options.threshold * (total - part).abs()
        return scaled(total * (votes >= wanted), options.strength)

    return by_rows(layer, agreed)
