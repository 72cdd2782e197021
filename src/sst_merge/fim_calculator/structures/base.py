"""What every Fisher structure of one layer can do.

Layout that the whole package assumes: vec(M) is row-major, index i·q + j, so that (G ⊗ A) vec(M) = vec(G M Aᵀ) and
``torch.kron(G, A)`` is the dense matrix. A Fisher is a *mean* over samples, but *sums* are stored, in float64, so
that the statistics of two runs add exactly.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError

__all__ = ["LayerFisher", "require_finite", "require_gram", "require_shape"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerFisher(ABC):
    """Fisher information of one layer's core matrix M (p, q), as a linear operator on M.

    Attributes:
        samples: N, how many samples the sums run over.
        weight: factor kept beside the sums; the operator is weight · (mean over samples).

    Raises:
        FisherError: no samples, a weight that is not a positive number, sums that are not finite or cannot be
            sums of squares.
    """

    structure: ClassVar[str]

    samples: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise FisherError(f"a {self.structure} Fisher of {self.samples} samples; at least one is needed")
        if not 0.0 < self.weight < float("inf"):
            raise FisherError(f"weight {self.weight} of a {self.structure} Fisher; it must be a positive number")

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(p, q): the shape of the core matrix."""

    @abstractmethod
    def matvec(self, core: Tensor) -> Tensor:
        """F vec(M), as a matrix again.

        Args:
            core: M, (..., p, q); leading dimensions are independent matrices.

        Returns:
            (..., p, q), float64.

        Raises:
            FisherError: another shape.
        """

    @abstractmethod
    def dense(self) -> Tensor:
        """F as a (pq, pq) float64 matrix."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonal of F, (p, q)."""

    def trace(self) -> float:
        """Sum of the diagonal."""
        return float(self.diagonal().sum())

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""

    def counts(self) -> dict[str, int]:
        """The integers that are stored beside the tensors."""
        return {"samples": self.samples}

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], counts: Mapping[str, int], weight: float) -> Self:
        """The inverse of :meth:`tensors` and :meth:`counts`.

        Args:
            tensors: as :meth:`tensors` gives them.
            counts: as :meth:`counts` gives them.
            weight: as in the attribute.

        Raises:
            FisherError: the numbers are not sums of squares.
        """

    @abstractmethod
    def _plus(self, other: Self) -> Self:
        """The sums of both; everything that must agree has been checked."""

    def __add__(self, other: Self) -> Self:
        """Statistics of both sets of samples together.

        Raises:
            FisherError: another structure, shape or weight.
        """
        if type(other) is not type(self):
            raise FisherError(f"cannot add a {other.structure} Fisher to a {self.structure} Fisher")
        if other.shape != self.shape:
            raise FisherError(f"cannot add Fishers of cores {self.shape} and {other.shape}: different core spaces")
        if other.weight != self.weight:
            raise FisherError(f"cannot add Fishers of weights {self.weight} and {other.weight}; add first, then scale")
        return self._plus(other)

    def scaled(self, factor: float) -> Self:
        """The operator times a positive number; the sums stay as they are.

        Args:
            factor: positive.

        Raises:
            FisherError: not a positive number.
        """
        return replace(self, weight=self.weight * factor)


def require_shape(core: Tensor, shape: tuple[int, int]) -> Tensor:
    """A core matrix in float64, after a check of its shape.

    Args:
        core: (..., p, q).
        shape: (p, q).

    Returns:
        The matrix in float64.

    Raises:
        FisherError: another shape.
    """
    if tuple(core.shape[-2:]) != shape:
        raise FisherError(
            f"core matrix has shape {tuple(core.shape)}; this Fisher acts on (..., {shape[0]}, {shape[1]})"
        )
    return core.to(torch.float64)


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and Inf.

    Args:
        name: of the statistic, for the message.
        tensor: its values.

    Raises:
        FisherError: NaN or Inf.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise FisherError(
            f"Fisher statistic {name} holds NaN or Inf; look for overflow (float16 model?) in the gradients"
        )


def require_gram(name: str, matrix: Tensor) -> None:
    """Refuse a matrix that cannot be a sum of outer products: not square, not finite, not symmetric, negative diagonal.

    Args:
        name: of the statistic, for the message.
        matrix: (n, n).

    Raises:
        FisherError: one of these.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise FisherError(f"Fisher statistic {name} has shape {tuple(matrix.shape)}; it must be square")
    require_finite(name, matrix)
    scale = float(matrix.abs().max())
    asymmetry = float((matrix - matrix.T).abs().max())
    if asymmetry > 1e-9 * scale:
        raise FisherError(
            f"Fisher statistic {name} is not symmetric: |F - Fᵀ| is {asymmetry:.3g} at a scale of {scale:.3g}"
        )
    if float(matrix.diagonal().min()) < 0.0:
        raise FisherError(f"Fisher statistic {name} has a negative diagonal; it is no sum of outer products")
