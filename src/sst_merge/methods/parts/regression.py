"""The closed form of RegMean (arXiv:2212.09849), whatever model the inputs were seen in.

ΔW = (Σᵢ |wᵢ| sign(wᵢ) ΔWᵢ Ĝᵢ) (Σᵢ |wᵢ| Ĝᵢ)⁻¹,   Ĝᵢ = a Gᵢ + (1 − a) diag(Gᵢ),   Gᵢ = E[x xᵀ]
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from ...core_space import CoreSpace
from ...errors import MergeError
from .. import Layer, StrengthOptions
from .own_data import OwnData, signed_patches

__all__ = ["OFF_DIAGONAL", "RIDGE", "RegressionOptions", "averaged", "merged_or_average", "regression_rows"]

OFF_DIAGONAL = 0.9
"""a of the reference implementation."""

RIDGE = 1e-6
"""What keeps the sum of all Gᵢ regular, relative to its mean diagonal."""


class RegressionOptions(StrengthOptions):
    """Options of RegMean and of what is made of it.

    Attributes:
        off_diagonal: a, multiplies what is off the diagonal of Gᵢ.
        damping: added to Gᵢ's diagonal, relative to its mean over all adapters.
        memory_gib: for the second moments of one group of modules.
    """

    off_diagonal: float = Field(default=OFF_DIAGONAL, ge=0.0, le=1.0)
    damping: float = Field(default=RIDGE, gt=0.0)
    memory_gib: float = Field(default=2.0, gt=0.0)


def regression_rows(
    spaces: Mapping[str, CoreSpace],
    adapters: Sequence[OwnData],
    modules: Sequence[str],
    moments_of: Callable[[OwnData], dict[str, Tensor]],
    options: RegressionOptions,
) -> dict[str, Tensor]:
    """Solve some modules.

    Args:
        spaces: core spaces in which the adapters' cores lie.
        adapters: with weights above 0.
        modules: whose inputs are vectors.
        moments_of: Gᵢ (d_in, d_in) of these modules for one adapter; asked once for each, and emptied.
        options: a and damping.

    Returns:
        Module → Uᵀ ΔW, (p, d_in), float64.
    """
    totals: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    for own in adapters:
        moments = moments_of(own)
        for module in modules:
            gram, space = moments.pop(module), spaces[module]
            gram = own.weight * (options.off_diagonal * gram + (1 - options.off_diagonal) * gram.diagonal().diag())
            core = own.cores.get(module)
            update = _rows(space, core, gram)
            share = own.weight * update
            totals[module] = totals[module] + gram if module in totals else gram
            rows[module] = rows[module] + update @ gram if module in rows else update @ gram
            shares[module] = shares[module] + share if module in shares else share
    for module, total in totals.items():
        ridge = options.damping * float(total.diagonal().mean()) / sum(own.weight for own in adapters)
        ridge = ridge if ridge > 0 else 1.0
        # Σ|w|(Ĝ + ridge I): the same ridge for all, so that inputs that no adapter uses give the weighted average.
        total.diagonal().add_(ridge * sum(own.weight for own in adapters))
        factor = torch.linalg.cholesky(total)
        rows[module] = torch.cholesky_solve((rows[module] + ridge * shares[module]).T, factor).T
    return rows


def merged_or_average(layer: Layer, strength: float, merged: Mapping[str, Tensor], method: str) -> Tensor:
    """λ times the core that a preparation found for this module, or the weighted average where it has none.

    Args:
        layer: core matrices of one module.
        strength: λ.
        merged: module → core, (p, q).
        method: name in messages.

    Raises:
        MergeError: all weights are 0.
    """
    if layer.module in merged:
        return strength * merged[layer.module].to(layer.patches[0])
    return strength * averaged(layer, method)


def averaged(layer: Layer, method: str) -> Tensor:
    """Σ wᵢ Mᵢ / Σ |wᵢ| of one module that has no closed form, such as an embedding.

    Raises:
        MergeError: all weights are 0.
    """
    total = sum(abs(w) for w in layer.weights)
    if total == 0:
        raise MergeError(f"{method} divides by the adapters' weights, which are all 0")
    shares = [abs(w) / total for w in layer.weights]
    return torch.stack([share * patch for share, patch in zip(shares, signed_patches(layer), strict=True)]).sum(0)


def _rows(space: CoreSpace, core: Tensor | None, like: Tensor) -> Tensor:
    """Uᵀ ΔW of one adapter, (p, d_in), where and in the type that ``like`` is."""
    core = space.coordinates(None) if core is None else core
    return core.to(like) @ space.right.to(like).T
