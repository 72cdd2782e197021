"""One linear layer's exact low-rank update, every scale baked in.

Layout that the whole package assumes: ΔW = B·A is d_out × d_in, whatever orientation the base model stores its
weight in. A LoRA bias (PEFT ``lora_bias``) is one more input that is always 1: the last column of A belongs to
it, so that every merge method, basis and Fisher treats it like any other input and stays exact.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import AdapterError
from .layouts import LINEAR, ModuleKind

__all__ = ["LoraFactors"]


@dataclass(frozen=True)
class LoraFactors:
    """The update of one module as two factors.

    Attributes:
        b: B with the scale s baked in, (d_out, r).
        a: A, (r, d_in), or (r, d_in + 1) where ``bias`` is set.
        kind: of the layer; how the base stores its weight, among others (:mod:`.layouts`).
        bias: whether the last column of ``a`` multiplies a constant 1 and so updates the layer's bias.

    Raises:
        AdapterError: the shapes do not fit together.

    Example:
        >>> import torch
        >>> from sst_merge import LoraFactors
        >>> factors = LoraFactors(b=torch.tensor([[1.0], [2.0]]), a=torch.tensor([[3.0, 0.0, 4.0]]))
        >>> factors.rank, factors.delta()
        (1, tensor([[3., 0., 4.],
                    [6., 0., 8.]]))
    """

    b: Tensor
    a: Tensor
    kind: ModuleKind = LINEAR
    bias: bool = False

    def __post_init__(self) -> None:
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise AdapterError(
                f"LoRA factors must be B (d_out, r) and A (r, d_in); found B {tuple(self.b.shape)} and "
                f"A {tuple(self.a.shape)}"
            )
        if self.bias and not self.kind.can_have_bias:
            raise AdapterError(f"{self.kind.described} has no bias: PEFT cannot represent a LoRA bias on it")

    @property
    def rank(self) -> int:
        """Number of columns of B: an upper bound of the rank of ΔW."""
        return self.b.shape[1]

    @property
    def d_out(self) -> int:
        """Outputs of the layer."""
        return self.b.shape[0]

    @property
    def d_in(self) -> int:
        """Inputs of the layer, the constant one not counted."""
        return self.a.shape[1] - int(self.bias)

    def delta(self, dtype: torch.dtype | None = None) -> Tensor:
        """ΔW = B·A.

        Args:
            dtype: type to compute in; the factors' own type by default.

        Returns:
            (d_out, d_in), without the bias column.
        """
        b, a = (self.b, self.a) if dtype is None else (self.b.to(dtype), self.a.to(dtype))
        return b @ a[:, : self.d_in]

    def bias_delta(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """The update of the layer's bias, (d_out,), or None where it has none; in the factors' type by default."""
        if not self.bias:
            return None
        b, a = (self.b, self.a) if dtype is None else (self.b.to(dtype), self.a.to(dtype))
        return b @ a[:, -1]

    def stored_delta(self, dtype: torch.dtype | None = None) -> Tensor:
        """ΔW as the base stores the weight: (d_in, d_out) for GPT-2's Conv1D and for embeddings."""
        return self.kind.stored(self.delta(dtype))

    @cached_property
    def direction_norms(self) -> tuple[Tensor, Tensor]:
        """Norms of every column of B and of every row of A, (r,) each, in float64."""
        return _norms(self.b, 0), _norms(self.a, 1)

    def with_bias(self) -> "LoraFactors":
        """The same update with a (zero) bias column, to match updates that have one."""
        if self.bias:
            return self
        column = self.a.new_zeros(self.a.shape[0], 1)
        return LoraFactors(self.b, torch.cat([self.a, column], dim=1), self.kind, bias=True)

    def detach(self) -> "LoraFactors":
        """The same tensors, through which no gradient goes."""
        return LoraFactors(self.b.detach(), self.a.detach(), self.kind, self.bias)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LoraFactors":
        """The same update on another device or in another type."""
        b, a = self.b.to(device=device, dtype=dtype), self.a.to(device=device, dtype=dtype)
        return LoraFactors(b, a, self.kind, self.bias)


def _norms(matrix: Tensor, dim: int) -> Tensor:
    # In float32 several times as fast, as nothing is copied; squares leave its range long before the entries do.
    found = torch.linalg.vector_norm(matrix, dim=dim).double()
    if bool(((found > 1e-15) & (found < 1e15)).all()):
        return found
    return torch.linalg.vector_norm(matrix, dim=dim, dtype=torch.float64)
