"""Random subspace: the control of every comparison with a chosen subspace.

The safety patch is let through a projector onto k random directions of the core instead of the k best ones:

    M = M_U + t · Q Qᵀ vec(D),   D = M_S (``add``) or M_S − M_U (``interpolate``)

with Q the orthonormal basis of k uniformly random directions, so that the expectation over seeds is (k / pq) D.
A method that chooses its directions must beat this at the same k.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..registry import Layer, MethodOptions, Needs, Promises, merge_method

__all__ = ["RandomSubspaceOptions", "random_subspace"]


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
)
def random_subspace(layer: Layer, options: RandomSubspaceOptions, state: None) -> Tensor:
    """M_U + t · QQᵀ D with k random directions.

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
    # Drawn on the CPU in float64: the same directions on every device and for every type.
    directions = torch.randn(n, k, generator=layer.generator, dtype=torch.float64)
    basis = torch.linalg.qr(directions)[0].to(patch)
    kept = basis @ (basis.T @ patch.reshape(-1))
    return utility + options.strength * kept.reshape(patch.shape)
