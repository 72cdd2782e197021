"""Random subspace: the control of every comparison with a chosen subspace.

The safety patch is let through an orthogonal projector onto k random directions of the core instead of the k best ones:

    M = M_U + t · P(D),   P(D) = L (mask ∘ Lᵀ D R) Rᵀ,   D = M_S (``add``) or M_S − M_U (``interpolate``)

with L (p, p) and R (q, q) uniformly random rotations (Haar measure) and a mask of k of the pq entries, drawn without
replacement. P has rank k, and its expectation over seeds is (k / pq) times the identity: E[P(D)] = (k / pq) D. A method
that chooses its directions must beat this at the same k.

The directions are the k rank-one matrices lᵢ rⱼᵀ of the mask: a uniformly rotated subspace, not a uniform draw among
all of dimension k, whose basis is a dense pq × k matrix (102400 × 25600 for twenty adapters of rank 16). It is a fair
control nonetheless: its law is the same after any rotation of either side, so that no direction of the layer's inputs
or outputs is preferred and neither the bases nor the factoring of an adapter matter; every patch keeps the share k / pq
of its energy on average. That share varies about as it does under a uniform draw for a patch of many similar singular
values, and with up to twice the standard deviation, 2 √(2 (k / pq) (1 − k / pq) / pq), for one of rank one.
Drawing costs two QR decompositions, less than the SVD of the core that every merge ends with.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Needs, Promises, merge_method
from ..methods.sweeps import MethodSweep

__all__ = ["RandomSubspaceOptions", "project_at_random", "random_subspace"]


class RandomSubspaceOptions(MethodOptions):
    """Options of the control.

    Attributes:
        strength: t, multiplies what passes the projector.
        fraction: k as a share of the core's pq directions, rounded to at least one.
        k: number of directions; overrides ``fraction``, and at most pq of them exist in a layer.
        combine: add the safety patch, or move from the utility patch towards it.
    """

    strength: float = Field(default=1.0, ge=0.0)
    fraction: float = Field(default=0.25, gt=0.0, le=1.0)
    k: int | None = Field(default=None, ge=1)
    combine: Literal["interpolate", "add"] = "add"


@merge_method(
    name="random_subspace",
    summary="control: the safety patch through k random directions",
    paper="control",
    options=RandomSubspaceOptions,
    needs=Needs(roles=frozenset({"utility", "safety"})),
    promises=Promises(deterministic=False),
    sweeps=(MethodSweep("Random subspace", (0.8, 1.4, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0, 4.8)),),
)
def random_subspace(layer: Layer, options: RandomSubspaceOptions, state: None) -> Tensor:
    """M_U + t · P(D) with k random directions.

    Args:
        layer: core matrices of one module.
        options: t, k and how to combine.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    utility, safety = layer.weighted_sum("utility"), layer.weighted_sum("safety")
    patch = safety if options.combine == "add" else safety - utility
    n = patch.numel()
    k = min(n, options.k if options.k is not None else max(1, round(options.fraction * n)))
    return utility + options.strength * project_at_random(patch, k, layer.generator)


def project_at_random(patch: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """P(D) = L (mask ∘ Lᵀ D R) Rᵀ: the orthogonal projection onto k random directions.

    Args:
        patch: D, (p, q).
        k: number of directions, at most pq.
        generator: CPU generator; it is drawn from on the CPU in float64, so that every device and type gets the same
            directions.

    Returns:
        The projected patch, (p, q).
    """
    p, q = patch.shape
    left, right = (_random_rotation(size, generator).to(patch) for size in (p, q))
    mask = torch.zeros(p * q, dtype=torch.float64)
    mask[torch.randperm(p * q, generator=generator)[:k]] = 1.0
    return left @ (mask.reshape(p, q).to(patch) * (left.T @ patch @ right)) @ right.T


def _random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix from the Haar measure, (size, size), in float64 on the CPU."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    # Without the signs of R's diagonal the law would be that of the QR algorithm's sign convention (Mezzadri 2007).
    return q * torch.where(r.diagonal() < 0.0, -1.0, 1.0).to(q)
