"""ΔW of one layer at a time, for methods that are defined on its entries, and back to factors."""

from collections.abc import Callable, Sequence
from typing import overload

import torch
from torch import Tensor

from ..core_space import Truncation, all_triplets, leading_triplets
from ..errors import MergeError
from ..lora_utils import LoraFactors, ModuleKind
from ..methods import PartlyFormed

__all__ = ["FormedUpdates", "compress_delta", "full_delta", "keep_freed_memory"]


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB that were freed, so that the next ΔW need not be mapped page by page again.

    glibc raises its thresholds to the largest block of up to 32 MiB that a process has given back. Without this,
    mapping ΔW of a few megabytes anew takes about as long as everything that an entry-wise method does to them.
    """
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)


def full_delta(factors: LoraFactors) -> Tensor:
    """ΔW (d_out, d_in) with its bias column, if it has one."""
    return factors.b @ factors.a


class FormedUpdates(PartlyFormed, Sequence[Tensor]):
    """The ΔW of every adapter for one layer, each formed when it is asked for.

    Twenty ΔW of a 4096 × 11008 layer are 3.4 GiB, their factors 23 MiB. The last one formed is kept, so that asking for
    the shape of the first and then going through all of them forms none twice.
    """

    def __init__(self, factors: Sequence[LoraFactors | None]) -> None:
        """Take the factors; nothing is formed yet."""
        self._factors = tuple(factors)
        self._like = next(f for f in self._factors if f is not None)
        self._last: tuple[int, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in), or (d_out, d_in + 1) with a bias: the shape of every ΔW."""
        return self._like.b.shape[0], self._like.a.shape[1]

    def rows(self, index: int, rows: slice) -> Tensor:
        """Some rows of one ΔW, without forming the rest."""
        factors = self._factors[index]
        if factors is None:
            return self._like.b.new_zeros(self._like.b[rows].shape[0], self.shape[1])
        return factors.b[rows] @ factors.a

    def entries(self, index: int, positions: Tensor) -> Tensor:
        """Single entries of one ΔW."""
        factors = self._factors[index]
        if factors is None:
            return self._like.b.new_zeros(positions.shape)
        row, column = positions // self.shape[1], positions % self.shape[1]
        return (factors.b[row] * factors.a.T.contiguous()[column]).sum(1)

    def times(self, index: int, columns: Tensor, *, transposed: bool = False) -> Tensor:
        """One ΔW, or its transpose, times a thin matrix: two thin products."""
        factors = self._factors[index]
        if factors is None:
            return columns.new_zeros(self.shape[1 if transposed else 0], columns.shape[1])
        return factors.a.T @ (factors.b.T @ columns) if transposed else factors.b @ (factors.a @ columns)

    def hint(self, probes: Tensor) -> Tensor:
        """Σᵢ ΔWᵢᵀ Ω with the columns of Ω in another order for every adapter, so that opposed updates do not cancel."""
        total = probes.new_zeros(self.shape[1], probes.shape[1])
        for index in range(len(self)):
            total += self.times(index, probes.roll(index, dims=1), transposed=True)
        return total

    def forget(self) -> None:
        """Let go of the last ΔW formed."""
        self._last = None

    def __len__(self) -> int:
        return len(self._factors)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]
        if self._last is None or self._last[0] != position:
            self._last = None
            factors = self._factors[position]
            formed = self._like.b.new_zeros(self.shape) if factors is None else full_delta(factors)
            self._last = (position, formed)
        return self._last[1]


def compress_delta(
    delta: Tensor,
    *,
    kind: ModuleKind,
    bias: bool,
    rank: int | None = None,
    energy: float | None = None,
    hint: Callable[[Tensor], Tensor] | None = None,
) -> tuple[LoraFactors, Truncation]:
    """Factors of a ΔW by a thin SVD: B = P √S, A = √S Qᵀ.

    Where a rank is given and no energy, only the leading singular values are computed
    (:func:`~sst_merge.core_space.leading_triplets`: the kept energy is within 1e-3 of the best possible one); the share
    of energy that is reported is exact either way, as ‖ΔW‖² is known.

    Args:
        delta: (d_out, d_in), or (d_out, d_in + 1) with a bias.
        kind: of the layer.
        bias: whether the last column belongs to the layer's bias.
        rank: keep at most this many singular values; all that are not numerically 0 by default.
        energy: keep the fewest singular values that hold this share of ‖ΔW‖²_F.
        hint: where the leading directions may lie, see :func:`~sst_merge.core_space.leading_triplets`.

    Returns:
        The update (rank ≥ 1) and what the cut cost.

    Raises:
        MergeError: NaN or Inf in the matrix.
    """
    total = _energy(delta)
    # A finite sum of squares has finite terms; an infinite one may have overflowed.
    if not total < float("inf") and not bool(torch.isfinite(delta).all()):
        raise MergeError("merged ΔW holds NaN or Inf; check the adapters and the method's options")
    found = leading_triplets(delta, rank, norm=total**0.5, hint=hint) if rank is not None and energy is None else None
    vectors, values, covectors = all_triplets(delta) if found is None else found
    squares = values.double().square()
    kept = int((values > values[0] * max(delta.shape) * torch.finfo(delta.dtype).eps).sum())
    if energy is not None and kept:
        short = squares.cumsum(0) < (energy - 1e-12) * squares.sum()
        kept = min(kept, int(short.sum()) + 1)
    kept = max(1, kept if rank is None else min(kept, rank))
    whole = float(squares.sum()) if found is None else total
    share = min(1.0, float(squares[:kept].sum()) / whole) if whole > 0 else 1.0
    root = values[:kept].sqrt().to(delta)
    factors = LoraFactors(vectors[:, :kept] * root, root[:, None] * covectors[:kept], kind, bias)
    return factors, Truncation(kept, share, values, complete=found is None)


def _energy(delta: Tensor) -> float:
    """‖ΔW‖²_F: rows in the matrix's own precision, their sum in float64."""
    # A twentieth of the time of float64 throughout, which copies the whole matrix, and as exact: rows are short.
    energy = float(torch.linalg.vector_norm(delta, dim=1).double().square().sum())
    # Squares of float32 leave its range long before the entries do.
    if 1e-20 < energy < 1e30:
        return energy
    return float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
