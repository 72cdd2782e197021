"""Where an adapter's factors come from: a safetensors file, or memory.

The file is opened anew for every module and its tensors are copied out, so that twenty 7B-size adapters stay at the
size of one layer each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import AdapterError
from .entries import ModuleEntry
from .experts import ExpertKind
from .factors import LoraFactors
from .stored_tensors import stored_tensors
from .values import all_finite, all_zero

__all__ = ["FileSource", "MemorySource", "RemoteSource", "RenamedSource", "Source"]


class Source(Protocol):
    """Where factors come from."""

    def read(self, module: str, dtype: torch.dtype | None) -> LoraFactors:
        """A module's factors in a type, or in the source's own."""
        ...

    def check(self, module: str) -> bool:
        """Refuse NaN and Inf in a module's tensors; whether they make no update, because one factor is zero."""
        ...

    def is_scaled_away(self, module: str) -> bool:
        """Whether a module's scale is 0, whatever its tensors hold."""
        ...


@dataclass(frozen=True)
class FileSource:
    """A safetensors file.

    Attributes:
        file: the file.
        entries: canonical module name → where its factors lie.
    """

    file: Path
    entries: Mapping[str, ModuleEntry]

    def _tensors(self, entry: ModuleEntry) -> list[Tensor]:
        keys = entry.keys
        if not isinstance(entry.layout.kind, ExpertKind):
            return stored_tensors(self.file, keys)
        try:  # Of a stack only what is this module's is read.
            with safe_open(self.file, framework="pt") as handle:
                return [handle.get_tensor(key) for key in keys]
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{self.file}: cannot read {keys[0]!r} any more ({error}); was it replaced?") from error

    def read(self, module: str, dtype: torch.dtype | None) -> LoraFactors:
        """Copy a module's tensors out of the file; float32, or float64 where the file has it, by default."""
        entry = self.entries[module]
        stored = self._tensors(entry)
        # Half types are widened before the scale goes in, or s·B would be rounded once more.
        target = dtype or torch.promote_types(torch.float32, torch.promote_types(stored[0].dtype, stored[1].dtype))
        working = target if target in {torch.float32, torch.float64} else torch.float32
        parts = (*entry.layout.kind.from_file(stored[0], stored[1]), *stored[2:])
        mapped = isinstance(entry.layout.kind, ExpertKind)
        a, b, *bias = (part.to(working, copy=mapped) for part in parts)
        if bias:
            b = torch.cat([b, bias[0][:, None]], dim=1)
            a = _bordered(a)
        factors = LoraFactors(b.mul_(entry.scale), a, entry.layout.kind, bool(bias))
        return factors if working == target else factors.to(dtype=target)

    def check(self, module: str) -> bool:
        """Refuse NaN and Inf in a module's tensors; whether they make no update, because one factor is zero."""
        entry = self.entries[module]
        stored = self._tensors(entry)
        a, b, *bias = tensors = [*entry.layout.kind.from_file(stored[0], stored[1]), *stored[2:]]
        for key, tensor in zip(entry.keys, tensors, strict=True):
            _check_finite(tensor, f"{self.file}: tensor {key!r}")
        return (all_zero(a) or all_zero(b)) and all(map(all_zero, bias))

    def is_scaled_away(self, module: str) -> bool:
        """Whether a module's scale is 0, whatever its tensors hold."""
        return self.entries[module].scale == 0


@dataclass(frozen=True)
class MemorySource:
    """Factors that are there already.

    Attributes:
        name: of the adapter, for messages.
        entries: canonical module name → its factors.
    """

    name: str
    entries: Mapping[str, LoraFactors]

    def read(self, module: str, dtype: torch.dtype | None) -> LoraFactors:
        """The tensors themselves, converted where a type is asked for."""
        factors = self.entries[module]
        return factors if dtype is None else factors.to(dtype=dtype)

    def check(self, module: str) -> bool:
        """Refuse NaN and Inf in a module's factors; whether they make no update, because one of them is zero."""
        a, b = self.entries[module].a, self.entries[module].b
        _check_finite(a, f"adapter {self.name!r}: A of module {module!r}")
        _check_finite(b, f"adapter {self.name!r}: B of module {module!r}")
        return all_zero(a) or all_zero(b)

    def is_scaled_away(self, module: str) -> bool:
        """Never: the scale is in the factors."""
        return False


@dataclass(frozen=True)
class RemoteSource:
    """A file that stayed on the hub: what its header and the configuration say is known, no value is.

    Attributes:
        name: of the repository, as the user wrote it, for messages.
        entries: canonical module name → where its factors lie.
    """

    name: str
    entries: Mapping[str, ModuleEntry]

    def read(self, module: str, dtype: torch.dtype | None) -> LoraFactors:
        """Refused.

        Raises:
            AdapterError: always.
        """
        self._refuse(module)

    def check(self, module: str) -> bool:
        """Refused.

        Raises:
            AdapterError: always.
        """
        self._refuse(module)

    def is_scaled_away(self, module: str) -> bool:
        """Whether a module's scale is 0, whatever its tensors hold."""
        return self.entries[module].scale == 0

    def _refuse(self, module: str) -> NoReturn:
        raise AdapterError(
            f"{self.name}: the values of module {module!r} are on the hub, of which only the header was read; load the "
            f"adapter without headers_only"
        )


@dataclass(frozen=True)
class RenamedSource:
    """Another source whose modules have other names.

    Attributes:
        source: the other one.
        names: new name → the source's.
    """

    source: Source
    names: Mapping[str, str]

    def read(self, module: str, dtype: torch.dtype | None) -> LoraFactors:
        """A module's factors in a type, or in the source's own."""
        return self.source.read(self.names[module], dtype)

    def check(self, module: str) -> bool:
        """Refuse NaN and Inf in a module's tensors; whether they make no update, because one factor is zero."""
        return self.source.check(self.names[module])

    def is_scaled_away(self, module: str) -> bool:
        """Whether a module's scale is 0, whatever its tensors hold."""
        return self.source.is_scaled_away(self.names[module])


def _bordered(a: Tensor) -> Tensor:
    """[[A, 0], [0, 1]]: A beside a constant input of its own, (r + 1, d_in + 1)."""
    bordered = a.new_zeros(a.shape[0] + 1, a.shape[1] + 1)
    bordered[:-1, :-1] = a
    bordered[-1, -1] = 1
    return bordered


def _check_finite(tensor: Tensor, what: str) -> None:
    if not all_finite(tensor):
        bad = int((~torch.isfinite(tensor)).sum())
        raise AdapterError(
            f"{what} holds {bad} NaN or Inf of {tensor.numel()} values, expected finite numbers; the training "
            f"diverged or the file is damaged: use another checkpoint"
        )
