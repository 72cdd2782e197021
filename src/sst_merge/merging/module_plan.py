"""One module of a merge as it is planned: shapes, kind and ranks, read from headers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..lora_utils import Adapter, LoraFactors, ModuleKind, natural_key

__all__ = ["ModulePlan", "planned_modules"]


@dataclass(frozen=True)
class ModulePlan:
    """One module of the merge.

    Attributes:
        name: canonical module name.
        d_out: outputs.
        d_in: inputs, a bias' constant one not counted.
        kind: of the layer.
        bias: whether the update has a bias column.
        ranks: of the adapters that touch it.
        rank: upper bound of the merged update's rank.
    """

    name: str
    d_out: int
    d_in: int
    kind: ModuleKind
    bias: bool
    ranks: tuple[int, ...]
    rank: int

    def parameters(self, rank: int | None = None) -> int:
        """Numbers that the merged factors hold at most, with rows of zeros up to a rank."""
        return (rank or self.rank) * (self.d_out + self.d_in + int(self.bias))

    def expected(self, dtype: torch.dtype) -> LoraFactors:
        """The merged update without its values, on the device ``meta``, where it has the rank that it may have."""
        b, a = (
            torch.empty(*shape, dtype=dtype, device="meta")
            for shape in ((self.d_out, self.rank), (self.rank, self.d_in + int(self.bias)))
        )
        return LoraFactors(b, a, self.kind, self.bias)


def planned_modules(adapters: Sequence[Adapter]) -> list[ModulePlan]:
    """Every module that an adapter touches, in the natural order of names."""
    names = sorted({module for adapter in adapters for module in adapter.modules}, key=natural_key)
    plans = []
    for name in names:
        touching = [adapter for adapter in adapters if name in adapter]
        d_out, d_in = touching[0].shape(name)
        bias = any(adapter.has_bias(name) for adapter in touching)
        ranks = tuple(adapter.rank(name) for adapter in touching)
        bound = min(d_out, d_in + int(bias), sum(ranks))
        plans.append(ModulePlan(name, d_out, d_in, touching[0].kind(name), bias, ranks, bound))
    return plans
