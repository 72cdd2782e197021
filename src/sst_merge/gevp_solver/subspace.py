"""The safety subspace: the span of the k directions with the highest safety efficiency."""

from .result import GEVPResult

__all__ = ["select_safety_subspace"]


def select_safety_subspace(result: GEVPResult, k: int) -> GEVPResult:
    """The k best directions, F_b-orthonormal.

    Args:
        result: of :func:`~sst_merge.gevp_solver.solve_gevp` on one layer.
        k: how many, 1 to the number of directions.

    Returns:
        The same kind of result with k directions; its ``eigenvectors`` (n, k) are the basis, its
        ``coefficients`` and ``expand`` make up the F_b-orthogonal projector.

    Example:
        >>> import torch
        >>> from sst_merge import select_safety_subspace, solve_gevp
        >>> solved = solve_gevp(torch.diag(torch.tensor([6.0, 1.0, 2.0])), torch.eye(3), damping=0.0)
        >>> best = select_safety_subspace(solved, k=2)
        >>> best.eigenvalues.round(decimals=6), best.eigenvectors.shape
        (tensor([6., 2.], dtype=torch.float64), torch.Size([3, 2]))
    """
    return result.top(k)
