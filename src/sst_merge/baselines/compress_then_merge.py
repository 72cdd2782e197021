"""Compress-then-Merge (He et al., ICML 2026, arXiv:2606.03723) with TIES: choose r directions first, merge in them.

    Tᵢ = wᵢ τᵢ (β + (1 − β) n̄ / ‖wᵢ τᵢ‖),   n̄ = mean of ‖wᵢ τᵢ‖
    U (d_out, r), V (d_in, r) = argmax Σᵢ ‖Uᵀ Tᵢ V‖²                     orthonormal: Tucker-2, by HOSVD and HOOI
    Oᵢ = Uᵀ wᵢ τᵢ V,   ΔW = λ U · TIES(O₁, …, O_T) · Vᵀ

so that a result of rank r needs no cut, and no adapter is cut away because it is small. All of it is exact in the core
space, as the paper proves. U and V are ordered singular vectors, so that no Oᵢ depends on a factorisation, up to signs,
which TIES does not see.

Defaults: r is the largest rank among the adapters, as in the paper's experiments; β = 0.25 and density 0.25 as in the
authors' example (they are tuned there, with a λ of 0.75); HOOI ends when the share of ‖T‖ that is missed moves by less
than 1e-6, or after 1000 rounds. Updates that are 0 say nothing about U and V. One adapter alone has a diagonal O, of
which trimming may take a part: not ``exact``. Deviation: DARE before TIES, the paper's other form, is not here.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.entrywise import Normalization, disjoint_merge, trim
from ..methods.parts.spectral import significant_svd
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import LESS_OF_AVERAGES, SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["compress_then_merge"]

_ROUNDS, _TOLERANCE = 1000, 1e-6


class CompressOptions(StrengthOptions):
    """Options of Compress-then-Merge.

    Attributes:
        directions: r, the rank of every merged module; the largest rank among the adapters by default.
        beta: β, how much of the adapters' sizes is left when the directions are chosen; 0 counts all alike.
        density: share of every O's entries that TIES keeps.
        normalize: what the sum of agreeing entries is divided by.
    """

    directions: int | None = Field(default=None, ge=1)
    beta: float = Field(default=0.25, ge=0.0, le=1.0)
    density: float = Field(default=0.25, gt=0.0, le=1.0)
    normalize: Normalization = "count"


@merge_method(
    name="compress_then_merge",
    summary="TIES in the few directions that all adapters share best",
    paper="arXiv:2606.03723",
    options=CompressOptions,
    promises=Promises(exact=False, homogeneous=True),
    sweeps=(
        MethodSweep("Compress-then-Merge", TRIMMED, knob=SAFETY_WEIGHT),
        MethodSweep("Compress-then-Merge", LESS_OF_AVERAGES, knob="strength", base="aligned"),
    ),
)
def compress_then_merge(layer: Layer, options: CompressOptions, state: None) -> Tensor:
    """λ U · TIES(Uᵀ w M V) · Vᵀ."""
    updates = list(weighted_updates(layer))
    norms = [float(update.norm()) for update in updates]
    used = [(update, norm) for update, norm in zip(updates, norms, strict=True) if norm]
    if not used:
        return torch.zeros_like(updates[0])
    mean = sum(norm for _, norm in used) / len(used)
    targets = [(update / norm) * (options.beta * norm / mean + 1.0 - options.beta) for update, norm in used]
    rank = options.directions or max(len(significant_svd(target)[1]) for target in targets)
    left, right = shared_directions(targets, rank)
    trimmed = (trim(left.T @ update @ right, options.density) for update in updates)
    merged = disjoint_merge(trimmed, layer.weights, normalize=options.normalize)
    return options.strength * (left @ merged @ right.T)


def shared_directions(targets: list[Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """U and V of the best Tucker-2 approximation by higher-order orthogonal iteration.

    Args:
        targets: T of (p, q).
        rank: r.

    Returns:
        U (p, min(p, r)) and V (q, min(q, r)), orthonormal, directions of most energy first.
    """
    size = sum(float(target.square().sum()) for target in targets)
    right = _leading([target.T for target in targets], rank)
    missed = 1.0
    for _ in range(_ROUNDS):
        left = _leading([target @ right for target in targets], rank)
        right = _leading([target.T @ left for target in targets], rank)
        energy = sum(float((left.T @ target @ right).square().sum()) for target in targets)
        before, missed = missed, max(0.0, 1.0 - energy / size) ** 0.5
        if abs(before - missed) < _TOLERANCE:
            break
    return left, right


def _leading(parts: list[Tensor], rank: int) -> Tensor:
    """Leading left singular vectors of all columns of some matrices."""
    return torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)[0][:, :rank]
