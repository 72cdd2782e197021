"""RESTA (Bhardwaj et al., arXiv:2402.11746): add the safety vector back.

    resta:       ΔW = Σ wᵢ ΔWᵢ + γ V
    resta_dare:  ΔW = DARE(Σ wᵢ ΔWᵢ) + γ V,   DARE drops entries with probability p and rescales by 1/(1 − p)

with V = θ_aligned − θ_unaligned. From the weights of two bases V has full rank; ``resta`` keeps its best update of
``vector_rank`` per module, and reports the share of energy that is left. Modules that no adapter touches are left
out. Where no pair of bases is given, V is the weighted sum of the safety adapters; ``resta`` is then Task Arithmetic
with γ as the safety adapters' strength. With V from weights, safety adapters are merged like any other.

``resta_dare`` is entry-wise: one layer's ΔW is formed at a time, V enters whole, and the result is not low-rank
(output rank or energy decides what is kept). γ is tuned in the paper; p = 0.9 is DARE's default (arXiv:2311.03099).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, merge_method
from ..methods.parts.alignment import Alignment, alignment_cores, alignment_source, weight_difference
from ..methods.sweeps import SUMS, MethodSweep

__all__ = ["RestaDareOptions", "RestaOptions", "resta", "resta_dare"]

_LITTLE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""γ on a base that is aligned already."""

_NEEDS = Needs(aligned_base=True, roles=frozenset({"utility"}))


class RestaOptions(MethodOptions):
    """Options of RESTA.

    Attributes:
        strength: γ, multiplies the safety vector.
        vector_rank: rank of V per module where it comes from weights.
        alignment: where V comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
    """

    strength: float = 1.0
    vector_rank: int = Field(default=16, ge=1)
    alignment: Alignment = "auto"


class RestaDareOptions(MethodOptions):
    """Options of RESTA with DARE.

    Attributes:
        strength: γ, multiplies the safety vector.
        drop: p, probability that an entry of the summed task updates is dropped.
        alignment: where V comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
    """

    strength: float = 1.0
    drop: float = Field(default=0.9, ge=0.0, lt=1.0)
    alignment: Alignment = "auto"


@dataclass(frozen=True)
class _Source:
    """Where V comes from, and the merge that its weights are read for."""

    name: Literal["weights", "safety"]
    problem: MergeProblem


def _prepare(problem: MergeProblem, options: RestaOptions) -> Prepared:
    source = alignment_source(problem, options.alignment, "resta")
    spaces, vectors, energies = alignment_cores(problem, source, options.vector_rank)
    report = {"alignment": source, "vector_energy": energies}
    return Prepared((source, vectors), report, (), spaces)


def _prepare_dare(problem: MergeProblem, options: RestaDareOptions) -> Prepared:
    source = alignment_source(problem, options.alignment, "resta_dare")
    return Prepared(_Source(source, problem), {"alignment": source})


@merge_method(
    name="resta",
    summary="the safety vector (aligned − unaligned) is added back",
    paper="arXiv:2402.11746",
    options=RestaOptions,
    needs=_NEEDS,
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("RESTA", SUMS, prepare_once=True),
        MethodSweep("RESTA", _LITTLE, prepare_once=True, base="aligned"),
    ),
)
def resta(layer: Layer, options: RestaOptions, state: tuple[str, Mapping[str, Tensor]]) -> Tensor:
    """Σ w M + γ V in the core.

    Args:
        layer: core matrices of one module.
        options: γ.
        state: source and core of V by module.

    Returns:
        The merged core, (p, q).
    """
    source, vectors = state
    tasks = layer.weighted_sum("utility" if source == "safety" else None)
    return tasks + options.strength * vectors[layer.module].to(tasks)


@merge_method(
    name="resta_dare",
    summary="task updates are dropped and rescaled, then the safety vector is added back",
    paper="arXiv:2402.11746",
    options=RestaDareOptions,
    domain="delta",
    needs=_NEEDS,
    promises=Promises(exact=False, deterministic=False),
    prepare=_prepare_dare,
    sweeps=(
        MethodSweep("RESTA with DARE", SUMS, {"drop": 0.5}, prepare_once=True),
        MethodSweep("RESTA with DARE", _LITTLE, {"drop": 0.5}, prepare_once=True, base="aligned"),
    ),
)
def resta_dare(layer: Layer, options: RestaDareOptions, state: _Source) -> Tensor:
    """DARE(Σ w ΔW) + γ V on one layer's entries.

    Args:
        layer: ΔW of one module, (d_out, d_in), or (d_out, d_in + 1) with a bias.
        options: p and γ.
        state: where V comes from.

    Returns:
        The merged ΔW, of the same shape.
    """
    tasks = layer.weighted_sum("utility" if state.name == "safety" else None)
    # Drawn on the CPU in float64: the same entries on every device and for every type.
    kept = torch.rand(tasks.shape, generator=layer.generator, dtype=torch.float64) >= options.drop
    merged = tasks * kept.to(tasks.device) / (1.0 - options.drop)
    if state.name == "safety":
        return merged + options.strength * layer.weighted_sum("safety")
    vector = weight_difference(state.problem, layer.module).to(merged)
    merged[:, : vector.shape[1]] += options.strength * vector
    return merged
