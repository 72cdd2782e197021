"""X ↦ Σ GᵢXAᵢ + ridge·X in one batched product, and a preconditioner that is exact where the terms share eigenvectors.

What conjugate gradients need for many adapters: twenty Kronecker Fishers have a spectrum over many decades, of which
the diagonal in the given basis says little. In the eigenbasis of the mean factors it says nearly everything.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KroneckerSum", "Terms"]

Terms = list[tuple[Tensor, Tensor, float]]
"""G, A and ridge of every term, weights inside."""


@dataclass(frozen=True)
class KroneckerSum:
    """Σ GᵢXAᵢ + ridge·X, float64.

    Attributes:
        left: Gᵢ, (terms, p, p), symmetric positive semi-definite.
        right: Aᵢ, (terms, q, q), the same.
        ridge: ≥ 0.
    """

    left: Tensor
    right: Tensor
    ridge: float

    @classmethod
    def of(cls, operator: object) -> "KroneckerSum | None":
        """An operator as a sum of Kronecker products.

        Args:
            operator: any.

        Returns:
            The sum, or None where the operator is none.
        """
        parts = getattr(operator, "kronecker_terms", None)
        terms = parts() if parts is not None else None
        if not terms:
            return None
        left = torch.stack([g.double() for g, _, _ in terms])
        right = torch.stack([a.double() for _, a, _ in terms])
        return cls(left, right, sum(ridge for _, _, ridge in terms))

    def matvec(self, core: Tensor) -> Tensor:
        """The operator applied to a core.

        Args:
            core: X, (p, q), float64.

        Returns:
            (p, q).
        """
        return (self.left @ core @ self.right).sum(0) + self.ridge * core

    def rough_inverse(self) -> Callable[[Tensor], Tensor]:
        """X ↦ U ((UᵀXV) / d) Vᵀ with eigenbases U, V of the mean factors and the operator's diagonal d in them.

        Returns:
            A function of cores (p, q) that is close to the inverse, and is it for one term.
        """
        u = torch.linalg.eigh(torch.einsum("tij,t->ij", self.left, _mean_diagonal(self.right)))[1]
        v = torch.linalg.eigh(torch.einsum("tij,t->ij", self.right, _mean_diagonal(self.left)))[1]
        rows = torch.einsum("ij,tik,kj->tj", u, self.left, u)
        columns = torch.einsum("ij,tik,kj->tj", v, self.right, v)
        scale = torch.einsum("ti,tj->ij", rows, columns) + self.ridge
        return lambda core: u @ ((u.T @ core @ v) / scale) @ v.T


def _mean_diagonal(factors: Tensor) -> Tensor:
    return factors.diagonal(dim1=1, dim2=2).mean(1)
