"""The projector onto a safety subspace, and the spectral filters that generalise it (design, section 4)."""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from ..gevp_solver import GEVPResult, GramGEVP, LayeredGEVP
from ..gevp_solver.result import Gains

__all__ = ["keep_all", "project_to_safety_subspace", "soft_filter"]


def soft_filter(mu: float) -> Gains:
    """h(λ) = λ / (λ + μ): the minimiser of (M−M_S)ᵀF_h(M−M_S) + μ (M−M_U)ᵀF_b(M−M_U), direction by direction.

    Args:
        mu: μ > 0, the price of benign cost.

    Returns:
        h; it maps eigenvalues (k,) to gains in [0, 1).
    """
    # Round-off can leave an eigenvalue a hair below 0; a negative gain would move against the patch.
    return lambda eigenvalues: eigenvalues.clamp_min(0.0) / (eigenvalues.clamp_min(0.0) + mu)


def keep_all(eigenvalues: Tensor) -> Tensor:
    """Gain 1: with the k best directions selected before, the hard projection.

    Args:
        eigenvalues: (k,).

    Returns:
        Ones, (k,).
    """
    return torch.ones_like(eigenvalues)


@overload
def project_to_safety_subspace(patch: Tensor, subspace: GEVPResult) -> Tensor: ...
@overload
def project_to_safety_subspace(patch: Mapping[str, Tensor], subspace: LayeredGEVP | GramGEVP) -> dict[str, Tensor]: ...
def project_to_safety_subspace(
    patch: Tensor | Mapping[str, Tensor], subspace: GEVPResult | LayeredGEVP | GramGEVP
) -> Tensor | dict[str, Tensor]:
    """P M = V_k V_kᵀ F_b vec(M): the F_b-orthogonal (oblique, idempotent) projection of a patch.

    Args:
        patch: core M (p, q) of one layer, or (n,) where plain (n, n) arrays were solved; or a dict of cores.
        subspace: of :func:`~sst_merge.gevp_solver.select_safety_subspace` for one layer, or a whole model's
            ``.top(k)``.

    Returns:
        The projected core or cores, in the patch's type and shape.

    Example:
        >>> import torch
        >>> from sst_merge import project_to_safety_subspace, select_safety_subspace, solve_gevp
        >>> solved = solve_gevp(torch.diag(torch.tensor([6.0, 1.0])), torch.eye(2), damping=0.0)
        >>> project_to_safety_subspace(torch.tensor([[3.0], [5.0]]), select_safety_subspace(solved, k=1))
        tensor([[3.],
                [0.]])
    """
    if isinstance(patch, Tensor):
        assert isinstance(subspace, GEVPResult)
        return subspace.apply(patch, keep_all).reshape(patch.shape)
    assert not isinstance(subspace, GEVPResult)
    return subspace.apply(dict(patch), keep_all)
