"""Ordered directions of one layer: what a generalised eigenvalue problem answers.

``eigh(A, B)`` returns B-orthonormal vectors, VᵀF_bV = I, so coordinates of a core M in that basis are
VᵀF_b vec(M) and the projector is V VᵀF_b: oblique, idempotent, F_b-orthogonal. V Vᵀ alone is not a projector.
vec is row-major: index i·q + j.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MergeError

__all__ = ["DenseGEVP", "DiagonalGEVP", "GEVPResult", "Gains", "KroneckerGEVP"]

Gains = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GEVPResult(ABC):
    """Solutions of F_h v = λ F_b v, λ descending.

    Attributes:
        eigenvalues: λ, (k,), float64.
        shape: (p, q) of the cores it acts on; (n, 1) where plain (n, n) arrays were given.

    Example:
        >>> import torch
        >>> from sst_merge import GEVPResult, solve_gevp
        >>> result = solve_gevp(torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2), damping=0.0)
        >>> isinstance(result, GEVPResult), result.eigenvalues.round(decimals=6)
        (True, tensor([4., 1.], dtype=torch.float64))
        >>> result.apply(torch.tensor([[3.0], [5.0]]), lambda gains: (gains > 2).double())  # the first direction alone
        tensor([[3.],
                [0.]])
    """

    eigenvalues: Tensor
    shape: tuple[int, int]

    @property
    @abstractmethod
    def eigenvectors(self) -> Tensor:
        """V, (n, k), with VᵀF_bV = I for the damped F_b that was solved."""

    @abstractmethod
    def coefficients(self, core: Tensor) -> Tensor:
        """VᵀF_b vec(M): coordinates of a core in the basis.

        Args:
            core: M, (p, q).

        Returns:
            (k,).
        """

    @abstractmethod
    def expand(self, coefficients: Tensor) -> Tensor:
        """V c as a core.

        Args:
            coefficients: c, (k,).

        Returns:
            (p, q).
        """

    @abstractmethod
    def top(self, k: int) -> "GEVPResult":
        """The k directions of largest λ.

        Args:
            k: how many, at most as many as there are.
        """

    def apply(self, core: Tensor, gains: Gains) -> Tensor:
        """V h(Λ) VᵀF_b vec(M): the spectral filter of the design's section 4.

        Args:
            core: M, (p, q), of any floating type.
            gains: h, applied to the eigenvalues.

        Returns:
            (p, q), in the core's type.
        """
        filtered = self.expand(gains(self.eigenvalues) * self.coefficients(core.double()))
        return filtered.to(core.dtype)

    def _checked_k(self, k: int) -> int:
        available = len(self.eigenvalues)
        if not 1 <= k <= available:
            raise MergeError(f"asked for the {k} best directions; this layer has 1 to {available}")
        return k


@dataclass(frozen=True)
class DenseGEVP(GEVPResult):
    """Eigenvectors held as a matrix.

    Attributes:
        vectors: V, (n, k).
        dual: F_b V, (n, k), so that coefficients are dualᵀ vec(M).
    """

    vectors: Tensor
    dual: Tensor

    @property
    def eigenvectors(self) -> Tensor:
        """V, (n, k)."""
        return self.vectors

    def coefficients(self, core: Tensor) -> Tensor:
        """VᵀF_b vec(M)."""
        return self.dual.T @ core.reshape(-1).double()

    def expand(self, coefficients: Tensor) -> Tensor:
        """V c."""
        return (self.vectors @ coefficients).reshape(self.shape)

    def top(self, k: int) -> "DenseGEVP":
        """The k directions of largest λ."""
        k = self._checked_k(k)
        return DenseGEVP(self.eigenvalues[:k], self.shape, self.vectors[:, :k], self.dual[:, :k])


@dataclass(frozen=True)
class DiagonalGEVP(GEVPResult):
    """Both Fishers diagonal: every direction is one entry of the core.

    Attributes:
        order: entry (row-major index) of each direction, (k,).
        scale: √F_b of that entry, (k,).
    """

    order: Tensor
    scale: Tensor

    @property
    def eigenvectors(self) -> Tensor:
        """V, (n, k): one entry 1/√F_b per column."""
        vectors = torch.zeros(self.shape[0] * self.shape[1], len(self.order), dtype=torch.float64)
        vectors[self.order, torch.arange(len(self.order))] = 1.0 / self.scale
        return vectors

    def coefficients(self, core: Tensor) -> Tensor:
        """VᵀF_b vec(M)."""
        return core.reshape(-1).double()[self.order] * self.scale

    def expand(self, coefficients: Tensor) -> Tensor:
        """V c."""
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float64)
        flat[self.order] = coefficients / self.scale
        return flat.reshape(self.shape)

    def top(self, k: int) -> "DiagonalGEVP":
        """The k directions of largest λ."""
        k = self._checked_k(k)
        return DiagonalGEVP(self.eigenvalues[:k], self.shape, self.order[:k], self.scale[:k])


@dataclass(frozen=True)
class KroneckerGEVP(GEVPResult):
    """Both Fishers Kronecker products: λ_ij = λ_i λ_j, v_ij = v_i ⊗ v_j; V is never formed unless asked for.

    Attributes:
        left: V_L, (p, p), with V_LᵀG_bV_L = I.
        right: V_R, (q, q), with V_RᵀA_bV_R = I.
        left_dual: G_b V_L, (p, p).
        right_dual: A_b V_R, (q, q).
        order: row-major index into (i, j) of each direction, (k,).
    """

    left: Tensor
    right: Tensor
    left_dual: Tensor
    right_dual: Tensor
    order: Tensor

    @property
    def eigenvectors(self) -> Tensor:
        """V, (n, k), formed on demand."""
        columns = self.right.shape[1]
        rows, cols = self.order // columns, self.order % columns
        return torch.einsum("ik,jk->ijk", self.left[:, rows], self.right[:, cols]).reshape(-1, len(self.order))

    def coefficients(self, core: Tensor) -> Tensor:
        """VᵀF_b vec(M) = V_LᵀG_b M A_bV_R, in eigenvalue order."""
        return (self.left_dual.T @ core.double() @ self.right_dual).reshape(-1)[self.order]

    def expand(self, coefficients: Tensor) -> Tensor:
        """V c = V_L C V_Rᵀ."""
        grid = torch.zeros(self.left.shape[1] * self.right.shape[1], dtype=torch.float64)
        grid[self.order] = coefficients
        return self.left @ grid.reshape(self.left.shape[1], self.right.shape[1]) @ self.right.T

    def top(self, k: int) -> "KroneckerGEVP":
        """The k directions of largest λ."""
        k = self._checked_k(k)
        return KroneckerGEVP(
            self.eigenvalues[:k],
            self.shape,
            self.left,
            self.right,
            self.left_dual,
            self.right_dual,
            self.order[:k],
        )
