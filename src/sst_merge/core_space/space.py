"""The core space of one module: coordinates in, exact low-rank update out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MergeError
from ..lora_utils import LINEAR, LoraFactors, ModuleKind
from .bases import align_bases, shared_bases
from .spectrum import numerical_rank, rank_for_energy

__all__ = ["CoreSpace", "Truncation", "common_layout", "truncated"]


@dataclass(frozen=True)
class Truncation:
    """What a cut to fewer singular values cost.

    Attributes:
        rank: rank of the lifted update.
        kept_energy: share of ‖ΔW‖²_F that is left, 1.0 where nothing was cut.
        singular_values: descending; of the whole update, or its leading ones alone where ``complete`` is not set.
        complete: whether all singular values are there.
    """

    rank: int
    kept_energy: float
    singular_values: Tensor
    complete: bool = True


@dataclass(frozen=True)
class CoreSpace:
    """Shared orthonormal bases of one module's updates (design, section 2): ΔW = U M Vᵀ.

    Attributes:
        left: U, (d_out, p), orthonormal columns.
        right: V, (d_in, q), or (d_in + 1, q) where ``bias`` is set.
        kind: of the layer, carried to the lifted update.
        bias: whether the last input is the constant 1 of a LoRA bias.

    Example:
        >>> import torch
        >>> from sst_merge import CoreSpace, LoraFactors
        >>> one = LoraFactors(torch.randn(64, 2), torch.randn(2, 48))
        >>> two = LoraFactors(torch.randn(64, 3), torch.randn(3, 48))
        >>> space = CoreSpace.spanned_by([one, two])
        >>> space.shape  # a merge works on 5 x 5 matrices, not on 64 x 48 ones
        (5, 5)
        >>> lifted, _ = space.lift(space.coordinates(one) + space.coordinates(two))
        >>> torch.allclose(lifted.delta(), one.delta() + two.delta(), atol=1e-4)
        True
    """

    left: Tensor
    right: Tensor
    kind: ModuleKind = LINEAR
    bias: bool = False

    @classmethod
    def spanned_by(cls, factors: Sequence[LoraFactors]) -> "CoreSpace":
        """The core space of several updates of one module, on their principal directions (:func:`~.bases.align_bases`).

        Where any basis will do, :class:`~.stacked.StackedSpace` is faster: it forms none.

        Args:
            factors: updates of the same module (any ranks, all with or all without bias column).

        Returns:
            Bases in which every one of ``factors`` is exact.

        Raises:
            MergeError: no factors, or factors of different layouts.
        """
        kind, bias = common_layout(factors)
        left, right = shared_bases(factors)
        left, right = align_bases(left, right, [(left.T @ f.b) @ (f.a @ right) for f in factors])
        return cls(left, right, kind, bias)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q): the shape of a core."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def d_in(self) -> int:
        """Inputs of the layer, the constant one not counted."""
        return self.right.shape[0] - int(self.bias)

    def coordinates(self, factors: LoraFactors | None) -> Tensor:
        """M = Uᵀ ΔW V; a layer that an adapter does not touch (None) is M = 0.

        Args:
            factors: an update inside the span of this space, or None.

        Returns:
            (p, q).
        """
        if factors is None:
            return self.left.new_zeros(self.shape)
        return (self.left.T @ factors.b) @ (factors.a @ self.right)

    def lift(
        self, core: Tensor, *, rank: int | None = None, energy: float | None = None
    ) -> tuple[LoraFactors, Truncation]:
        """Back from coordinates to factors, by a thin SVD of the core: B = U P √S, A = √S Qᵀ Vᵀ.

        Args:
            core: M, (p, q).
            rank: keep at most this many singular values; all that are not numerically 0 by default.
            energy: keep the fewest singular values that hold this share of ‖M‖²_F (0 < energy ≤ 1).

        Returns:
            The update (rank ≥ 1, so that it can be stored) and what the cut cost.

        Raises:
            MergeError: the core has another shape than this space, or holds NaN or Inf.
        """
        b, a, truncation = truncated(core, self.shape, rank=rank, energy=energy)
        return LoraFactors(self.left @ b, a @ self.right.T, self.kind, self.bias), truncation


def truncated(
    core: Tensor, shape: tuple[int, int], *, rank: int | None, energy: float | None
) -> tuple[Tensor, Tensor, Truncation]:
    """Factors of a core by a thin SVD, M = P S Qᵀ, cut as asked.

    Args:
        core: M, (p, q).
        shape: what it must be.
        rank: see :meth:`CoreSpace.lift`.
        energy: see :meth:`CoreSpace.lift`.

    Returns:
        P √S (p, k), √S Qᵀ (k, q) with k ≥ 1, and what the cut cost.

    Raises:
        MergeError: the core has another shape, or holds NaN or Inf.
    """
    if tuple(core.shape) != shape:
        raise MergeError(f"core matrix has shape {tuple(core.shape)}, this core space needs {shape}")
    if not bool(torch.isfinite(core).all()):
        raise MergeError("core matrix holds NaN or Inf; check the adapters and the Fisher statistics")
    vectors, values, covectors = torch.linalg.svd(core, full_matrices=False)
    kept = _kept_rank(values, core, rank, energy)
    total = float(values.square().sum())
    kept_energy = float(values[:kept].square().sum()) / total if total > 0 else 1.0
    root = values[:kept].sqrt()
    return vectors[:, :kept] * root, root[:, None] * covectors[:kept], Truncation(kept, kept_energy, values)


def _kept_rank(values: Tensor, core: Tensor, rank: int | None, energy: float | None) -> int:
    kept = numerical_rank(values, max(core.shape))
    if energy is not None:
        kept = min(kept, rank_for_energy(values, energy))
    if rank is not None:
        kept = min(kept, rank)
    return max(1, kept)


def common_layout(factors: Sequence[LoraFactors]) -> tuple[ModuleKind, bool]:
    """The one layout that all updates of a module share.

    Args:
        factors: updates of the same module.

    Returns:
        ``(kind, bias)``.

    Raises:
        MergeError: no factors, or different shapes, kinds or bias columns.
    """
    if not factors:
        raise MergeError("a core space needs at least one update")
    layouts = {(f.d_out, f.d_in, f.kind, f.bias) for f in factors}
    if len(layouts) > 1:
        found = sorted((d_out, d_in, str(kind), bias) for d_out, d_in, kind, bias in layouts)
        raise MergeError(
            f"updates of one module have different layouts (d_out, d_in, kind, bias): {found}; these adapters "
            "were trained on different base models"
        )
    return factors[0].kind, factors[0].bias
