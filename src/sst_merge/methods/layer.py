"""One module as a merge method sees it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Layer", "PartlyFormed", "named_generator"]


class PartlyFormed(ABC):
    """Patches of which a part can be had without forming the rest; what the engine gives methods on ΔW."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Shape of every patch."""

    @abstractmethod
    def rows(self, index: int, rows: slice) -> "Tensor":
        """Some rows of one patch, (number of rows, d_in)."""

    @abstractmethod
    def entries(self, index: int, positions: "Tensor") -> "Tensor":
        """Single entries of one patch, by their positions in row-major order; up to rounding."""

    @abstractmethod
    def times(self, index: int, columns: "Tensor", *, transposed: bool = False) -> "Tensor":
        """One patch, or its transpose, times a thin matrix; up to rounding."""


@dataclass(frozen=True)
class Layer:
    """One module as a method sees it.

    Attributes:
        module: canonical name.
        patches: one matrix per adapter: its core M (p, q) or its ΔW (d_out, d_in), by the method's domain; 0
            where the adapter does not touch the module. A ΔW is formed when it is asked for and only the last one is
            kept: go through them one after the other, twice if need be, and do not change them in place.
        weights: one per adapter.
        roles: one per adapter, ``utility`` or ``safety``.
        generator: random numbers of this module alone, so that order and parallelism do not matter.
        names: of the adapters, one each; where a layer is made without them, their positions stand for them.
    """

    module: str
    patches: "Sequence[Tensor]"
    weights: tuple[float, ...]
    roles: tuple[str, ...]
    generator: "torch.Generator"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", tuple(map(str, range(len(self.weights)))))

    def draws(self, index: int) -> "torch.Generator":
        """Random numbers of one adapter in this module, the same whatever adapters stand beside it, in any order.

        They start anew with every call.
        """
        return named_generator(self.generator.initial_seed(), self.names[index])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of every patch."""
        if isinstance(self.patches, PartlyFormed):
            return self.patches.shape
        return self.patches[0].shape[0], self.patches[0].shape[1]

    def rows(self, index: int, rows: slice) -> "Tensor":
        """Some rows of one patch, not to be changed in place; of a ΔW the rest is not formed."""
        if isinstance(self.patches, PartlyFormed):
            return self.patches.rows(index, rows)
        return self.patches[index][rows]

    def entries(self, index: int, positions: "Tensor") -> "Tensor":
        """Entries of one patch by position in row-major order, (c,), up to rounding; of a ΔW the rest is not formed."""
        if isinstance(self.patches, PartlyFormed):
            return self.patches.entries(index, positions)
        return self.patches[index].flatten()[positions]

    def times(self, index: int, columns: "Tensor", *, transposed: bool = False) -> "Tensor":
        """One patch (d_out, d_in), or its transpose, times a thin matrix, up to rounding; no ΔW is formed."""
        if isinstance(self.patches, PartlyFormed):
            return self.patches.times(index, columns, transposed=transposed)
        return (self.patches[index].T if transposed else self.patches[index]) @ columns

    def combined(self, coefficients: Sequence[float]) -> "Tensor":
        """Σ cᵢ Mᵢ, one coefficient per adapter."""
        total = self.patches[0].new_zeros(self.patches[0].shape)
        for patch, coefficient in zip(self.patches, coefficients, strict=True):
            if coefficient != 0.0:
                total += coefficient * patch
        return total

    def weighted_sum(self, role: str | None = None) -> "Tensor":
        """Σ wᵢ Mᵢ over the adapters of a role (all by default), zero where no adapter has it."""
        owners = zip(self.weights, self.roles, strict=True)
        return self.combined([weight if role is None or owner == role else 0.0 for weight, owner in owners])


def named_generator(seed: int, name: str) -> "torch.Generator":
    """Random numbers of one name under a seed, on the CPU, by SHA-256: Python's own hash changes from run to run."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
