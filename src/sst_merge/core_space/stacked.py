"""The core space of one module without its bases: all that a merge needs which asks for coordinates and a lift.

    [B₁ … B_T] = U [R₁ … R_T],   [A₁ᵀ … A_Tᵀ] = V [S₁ … S_T]   ⇒   Mᵢ = Uᵀ Bᵢ Aᵢ V = Rᵢ Sᵢᵀ

The coordinates of the stacked updates stand in the triangles of the two QR decompositions, exactly, and lifting a core
of rank k applies the Householder reflectors to k columns. So U and V, as wide as all ranks together, are never formed,
and no product with a long side is computed but the last one. Householder's QR has no trouble with dependent columns
(a Cholesky QR squares their condition), and equal adapters are common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora_utils import LoraFactors, ModuleKind
from .space import Truncation, common_layout, truncated

__all__ = ["StackedSpace"]


@dataclass(frozen=True)
class _HouseholderQR:
    """A QR decomposition of a (d, n) stack whose Q stays as min(d, n) reflectors."""

    reflectors: Tensor
    scales: Tensor
    triangle: Tensor

    @classmethod
    def of(cls, stack: Tensor) -> "_HouseholderQR":
        packed, scales = torch.geqrf(stack)
        size = min(stack.shape)
        return cls(packed[:, :size], scales, packed[:size].triu())

    def times(self, columns: Tensor) -> Tensor:
        """Q C for some columns in the basis' coordinates, (d, k)."""
        long = columns.new_zeros(self.reflectors.shape[0], columns.shape[1])
        long[: columns.shape[0]] = columns
        return torch.ormqr(self.reflectors, self.scales, long)


@dataclass(frozen=True)
class StackedSpace:
    """Coordinates of several updates of one module in some shared orthonormal bases.

    Attributes:
        coordinates: Mᵢ of every update, T of (p, q); 0 where an adapter does not touch the module.
        kind: of the layer, carried to the lifted update.
        bias: whether the last input is the constant 1 of a LoRA bias.
    """

    coordinates: tuple[Tensor, ...]
    kind: ModuleKind
    bias: bool
    _left: _HouseholderQR
    _right: _HouseholderQR

    @classmethod
    def spanned_by(cls, factors: Sequence[LoraFactors | None]) -> "StackedSpace":
        """The core space of several updates of one module.

        Args:
            factors: updates of the same module (any ranks, all with or all without bias column), None where an adapter
                does not touch it.

        Returns:
            Their coordinates, and what lifts a core.

        Raises:
            MergeError: no factors, or factors of different layouts.
        """
        there = [f for f in factors if f is not None]
        kind, bias = common_layout(there)
        left = _HouseholderQR.of(torch.cat([f.b for f in there], dim=1))
        right = _HouseholderQR.of(torch.cat([f.a for f in there], dim=0).T)
        ranks = [0 if f is None else f.rank for f in factors]
        # No columns, no update: the product of empty blocks is 0.
        blocks = zip(*(torch.split(side.triangle, ranks, dim=1) for side in (left, right)), strict=True)
        return cls(tuple(b @ a.T for b, a in blocks), kind, bias, left, right)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q): the shape of a core."""
        return self._left.triangle.shape[0], self._right.triangle.shape[0]

    def lift(
        self, core: Tensor, *, rank: int | None = None, energy: float | None = None
    ) -> tuple[LoraFactors, Truncation]:
        """Back from coordinates to factors; arguments, result and errors as of :meth:`~.space.CoreSpace.lift`."""
        b, a, truncation = truncated(core, self.shape, rank=rank, energy=energy)
        lifted = LoraFactors(self._left.times(b), self._right.times(a.T).T.contiguous(), self.kind, self.bias)
        return lifted, truncation
