"""What every Fisher structure of one layer can do.

Layout that the whole package assumes: vec(M) is row-major, index i·q + j, so that (G ⊗ A) vec(M) = vec(G M Aᵀ) and
``torch.kron(G, A)`` is the dense matrix. A Fisher is a *mean* over samples, but *sums* are stored, in float64, so
that the statistics of two runs add exactly.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from ...errors import FisherError
from .sums import RunningSums

__all__ = ["Form", "LayerFisher", "require_finite", "require_gram", "require_shape"]

Form = Literal["diagonal", "kronecker", "dense", "low-rank"]
"""How an operator can be taken apart; see :class:`LayerFisher`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerFisher(ABC):
    """Fisher information of one layer's core matrix M (p, q), as a linear operator on M.

    A structure says with :attr:`form` how its operator can be taken apart, and solvers ask for nothing else:

    - ``diagonal``: :meth:`diagonal` is the whole operator;
    - ``kronecker``: F = G ⊗ A with the two :meth:`factors`;
    - ``dense``: :meth:`dense` is the way to it;
    - ``low-rank``: F = RᵀR with the :meth:`root` R, whose row n belongs to sample n in every layer, so that the
      Fisher of a whole model also holds the correlations between layers.

    Fields are what is stored: tensors and integers are sums over samples and are added; anything else must be equal
    in what is added.

    Attributes:
        structure: name of the structure.
        form: how the operator can be taken apart.
        sums: what gathers its statistics; set by :func:`~.registry.fisher_structure`.
        samples: N, how many samples the sums run over.
        weight: factor kept beside the sums; the operator is weight · (mean over samples).

    Raises:
        FisherError: no samples, a weight that is not a positive number, sums that are not finite or cannot be
            sums of squares.
    """

    structure: ClassVar[str]
    form: ClassVar[Form]
    sums: ClassVar[type[RunningSums]]

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

    def dense(self) -> Tensor:
        """F as a (pq, pq) float64 matrix."""
        size = self.shape[0] * self.shape[1]
        return self.matvec(torch.eye(size, dtype=torch.float64).reshape(size, *self.shape)).flatten(1)

    def diagonal(self) -> Tensor:
        """The diagonal of F, (p, q)."""
        return self.dense().diagonal().reshape(self.shape)

    def trace(self) -> float:
        """Sum of the diagonal."""
        return float(self.diagonal().sum())

    def factors(self) -> tuple[Tensor, Tensor]:
        """G (p, p) and A (q, q) with F = G ⊗ A, of a structure of form ``kronecker``.

        Raises:
            FisherError: of another form.
        """
        raise FisherError(f"a {self.structure} Fisher is of form {self.form}: it has no Kronecker factors")

    def root(self) -> Tensor:
        """R (N, pq) with F = RᵀR, float64, of a structure of form ``low-rank``.

        Raises:
            FisherError: of another form.
        """
        raise FisherError(f"a {self.structure} Fisher is of form {self.form}: it does not hold every sample's gradient")

    def variance(self) -> Tensor:
        """E[g²] - E[g]², (p, q): the variance of the gradient over samples, times the weight.

        Raises:
            FisherError: the structure does not know it.
        """
        raise FisherError(f"a {self.structure} Fisher does not know the gradient's variance; use diagonal or lowrank")

    def output_shrunk(self, share: float) -> Self:
        """The Fisher with its output factor shrunk towards a multiple of the identity.

        Args:
            share: γ, 0 to 1.

        Returns:
            This operator as it is, where it has no output factor.
        """
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The stored fields that are tensors, by name."""
        return {name: value for name, value in self._stored().items() if isinstance(value, Tensor)}

    def counts(self) -> dict[str, Any]:
        """The stored fields that are no tensors, by name: N, other counts, and shapes."""
        return {name: value for name, value in self._stored().items() if not isinstance(value, Tensor)}

    def _stored(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "weight"}

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
        return replace(self, **self._sums_with(other))

    def _sums_with(self, other: Self) -> dict[str, Any]:
        """The fields of the sum; everything that must agree has been checked."""
        theirs = other._stored()
        return {name: own + theirs[name] for name, own in self._stored().items() if isinstance(own, Tensor | int)}

    @classmethod
    def adds_by_field(cls) -> bool:
        """Whether a sum is the sum of every stored tensor and integer, whatever the order of the samples."""
        return cls._sums_with is LayerFisher._sums_with

    def reordered(self, order: Tensor) -> Self:
        """The same statistics with the samples in another order; sums know none.

        Args:
            order: sample ``order[n]`` becomes sample n.
        """
        return self

    def scaled(self, factor: float) -> Self:
        """The operator times a positive number; the sums stay as they are.

        Raises:
            FisherError: not a positive number.
        """
        return replace(self, weight=self.weight * factor)


def require_shape(core: Tensor, shape: tuple[int, int]) -> Tensor:
    """A core matrix (..., p, q) in float64, after a check of its shape.

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

    Raises:
        FisherError: NaN or Inf.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise FisherError(
            f"Fisher statistic {name} holds NaN or Inf; look for overflow (float16 model?) in the gradients"
        )


def require_gram(name: str, matrix: Tensor) -> None:
    """Refuse a matrix that cannot be a sum of outer products: not square, not finite, not symmetric, negative diagonal.

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
        raise FisherError(f"Fisher statistic {name} has a negative diagonal; it is not a sum of outer products")
