"""Conjugate gradients and LOBPCG, where the benign Fisher is a sum of operators and no factorisation exists.

Several utility adapters, each with its own Fisher, give X ↦ Σ wᵢ GᵢXAᵢ: small, symmetric, positive definite, but
neither a Kronecker product nor (for many adapters) small enough for a dense solve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import FisherError
from ..fim_calculator.structures import LayerFisher
from .kronecker_sum import KroneckerSum, Terms
from .result import DenseGEVP

__all__ = ["CoreOperator", "DampedFisher", "OperatorSum", "lobpcg_gevp", "solve_linear"]


class CoreOperator(Protocol):
    """A symmetric positive semi-definite operator on cores (p, q)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        ...

    @property
    def diagonal(self) -> Tensor:
        """Diagonal entries, (p, q), float64."""
        ...

    def matvec(self, core: Tensor) -> Tensor:
        """The operator applied to a core."""
        ...


@dataclass(frozen=True)
class DampedFisher:
    """F + ρ·mean(diag F)·I of one layer, as an operator.

    Attributes:
        fisher: F.
        damping: ρ ≥ 0.
    """

    fisher: LayerFisher
    damping: float

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.fisher.shape

    @property
    def diagonal(self) -> Tensor:
        """Diagonal entries, (p, q)."""
        own = self.fisher.diagonal().double()
        return own + self.damping * own.mean()

    def matvec(self, core: Tensor) -> Tensor:
        """F M + ridge·M.

        Args:
            core: M, (p, q).

        Returns:
            (p, q).
        """
        return self.fisher.matvec(core) + self._ridge * core

    @property
    def _ridge(self) -> float:
        return self.damping * self.fisher.trace() / (self.shape[0] * self.shape[1])

    def kronecker_terms(self) -> Terms | None:
        """The Fisher as one term of a sum of Kronecker products, or None where it is none."""
        return [(*self.fisher.factors(), self._ridge)] if self.fisher.form == "kronecker" else None


@dataclass(frozen=True)
class OperatorSum:
    """Σ wᵢ Oᵢ.

    Attributes:
        terms: Oᵢ, all of one core shape.
        weights: wᵢ ≥ 0.

    Raises:
        FisherError: no terms, different shapes, or a negative weight.
    """

    terms: tuple[CoreOperator, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        shapes = [t.shape for t in self.terms]
        if len(set(shapes)) != 1 or len(shapes) != len(self.weights) or min(self.weights) < 0:
            raise FisherError(
                f"a sum of operators needs terms of one core shape and as many weights ≥ 0; found shapes {shapes} "
                f"and weights {list(self.weights)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q)."""
        return self.terms[0].shape

    @property
    def diagonal(self) -> Tensor:
        """Diagonal entries, (p, q)."""
        return torch.stack([w * t.diagonal for t, w in zip(self.terms, self.weights, strict=True)]).sum(0)

    def matvec(self, core: Tensor) -> Tensor:
        """Σ wᵢ Oᵢ M.

        Args:
            core: M, (p, q).

        Returns:
            (p, q).
        """
        return torch.stack([w * t.matvec(core) for t, w in zip(self.terms, self.weights, strict=True)]).sum(0)

    def kronecker_terms(self) -> Terms | None:
        """All terms, or None where one of them is no Kronecker product."""
        found: Terms = []
        for term, weight in zip(self.terms, self.weights, strict=True):
            parts = getattr(term, "kronecker_terms", None)
            own = parts() if parts is not None else None
            if own is None:
                return None
            found += [(weight * g, a, weight * ridge) for g, a, ridge in own]
        return found


def solve_linear(operator: CoreOperator, right_hand_side: Tensor, *, tolerance: float = 1e-10) -> Tensor:
    """X with operator(X) = right-hand side, by preconditioned conjugate gradients (SciPy).

    Sums of Kronecker products are preconditioned in the eigenbasis of their mean factors, others by their diagonal.

    Args:
        operator: symmetric positive definite.
        right_hand_side: (p, q).
        tolerance: relative residual.

    Returns:
        (p, q), float64.

    Raises:
        FisherError: no convergence, usually because the operator is singular.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    n = right_hand_side.numel()
    diagonal = operator.diagonal
    if not bool((diagonal > 0).all()):
        raise FisherError("the Fisher operator has zeros on its diagonal; raise the damping")

    known = KroneckerSum.of(operator)
    product = operator.matvec if known is None else known.matvec
    roughly = (lambda core: core / diagonal) if known is None else known.rough_inverse()

    def on_vectors(function: Callable[[Tensor], Tensor]) -> LinearOperator:
        def apply(vector: np.ndarray) -> np.ndarray:
            return function(torch.from_numpy(vector.reshape(operator.shape))).reshape(-1).numpy()

        return LinearOperator((n, n), matvec=apply, dtype=np.float64)

    target = right_hand_side.detach().double().reshape(-1).numpy()
    solution, info = cg(on_vectors(product), target, rtol=tolerance, maxiter=20 * n, M=on_vectors(roughly))
    if info != 0:
        raise FisherError(f"conjugate gradients did not reach {tolerance:g} in {20 * n} steps; raise the damping")
    return torch.from_numpy(solution).reshape(operator.shape)


def lobpcg_gevp(
    f_harm: CoreOperator,
    f_benign: CoreOperator,
    k: int,
    *,
    seed: int = 0,
    tolerance: float = 1e-8,
    max_iterations: int = 2000,
) -> DenseGEVP:
    """The k largest generalised eigenpairs of two operators (SciPy's LOBPCG).

    Args:
        f_harm: F_h as an operator.
        f_benign: F_b as an operator, positive definite.
        k: number of directions, at most a fifth of pq (below that a dense solve is the right tool).
        seed: of the start block.
        tolerance: residual, relative to the largest λ.
        max_iterations: upper bound.

    Returns:
        λ descending, V with VᵀF_bV = I.

    Raises:
        FisherError: k is too large, or the residual stays above the tolerance.
    """
    import warnings

    from scipy.sparse.linalg import LinearOperator, lobpcg

    n = f_harm.shape[0] * f_harm.shape[1]
    if not 1 <= k <= n // 5:
        raise FisherError(f"LOBPCG finds 1 to {n // 5} of {n} directions, asked for {k}; use a dense solve for more")

    def block(operator: CoreOperator) -> LinearOperator:
        def columns(matrix: np.ndarray) -> np.ndarray:
            cores = torch.from_numpy(np.ascontiguousarray(matrix.reshape(n, -1).T)).reshape(-1, *operator.shape)
            return torch.stack([operator.matvec(core).reshape(-1) for core in cores], dim=1).numpy()

        return LinearOperator((n, n), matvec=columns, matmat=columns, dtype=np.float64)

    benign = block(f_benign)
    inverse = 1.0 / f_benign.diagonal.reshape(-1, 1).numpy()
    jacobi = LinearOperator(
        (n, n), matvec=lambda m: inverse * m.reshape(n, -1), matmat=lambda m: inverse * m, dtype=np.float64
    )
    start = np.random.default_rng(seed).standard_normal((n, k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its own convergence message; ours follows, with the numbers
        values, vectors = lobpcg(
            block(f_harm), start, B=benign, M=jacobi, largest=True, tol=tolerance * k, maxiter=max_iterations
        )
    order = np.argsort(values)[::-1].copy()
    eigenvalues, eigenvectors = torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order])
    dual = torch.from_numpy(benign.matmat(eigenvectors.numpy()))
    harm_image = torch.from_numpy(block(f_harm).matmat(eigenvectors.numpy()))
    residual = float((harm_image - dual * eigenvalues).norm(dim=0).max() / (harm_image.norm(dim=0).max() + 1e-300))
    if not residual <= max(1e-5, 10 * tolerance):
        raise FisherError(f"LOBPCG stopped at relative residual {residual:.2g}; raise the damping or lower k = {k}")
    return DenseGEVP(eigenvalues, f_harm.shape, eigenvectors, dual)
