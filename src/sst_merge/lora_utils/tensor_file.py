"""A safetensors file that is written one tensor at a time.

The data go straight to disk; the header, which has to come first, is written last and the data appended to it, so that
memory holds one tensor however large the file is. Factors may still be given a larger rank then, by rows of zeros.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import AdapterError
from .values import all_finite, all_zero
from .whole_weights import WholeWeight

__all__ = ["TensorFile"]

_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_FLOATS = {name: dtype for dtype, name in _TYPES.items()}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies in the data.

    Attributes:
        key: its name in the file.
        dtype: as safetensors calls it.
        shape: as written so far.
        size: bytes.
        rank_dimension: the dimension that is a factor's rank; None for tensors that have none.
        joined: the dimension that is one with the next one in the file: rank and number of a stack; None otherwise.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    rank_dimension: int | None
    joined: int | None = None

    def missing(self, rank: int | None) -> int:
        """Rows (or columns) of zeros up to that rank."""
        return 0 if rank is None or self.rank_dimension is None else rank - self.shape[self.rank_dimension]

    def padded_shape(self, rank: int | None) -> tuple[int, ...]:
        """Shape with the zeros."""
        more = self.missing(rank)
        return tuple(size + more * (place == self.rank_dimension) for place, size in enumerate(self.shape))

    def written_shape(self, rank: int | None) -> list[int]:
        """The same as the file has it."""
        shape = list(self.padded_shape(rank))
        if self.joined is not None:
            shape[self.joined : self.joined + 2] = [shape[self.joined] * shape[self.joined + 1]]
        return shape


@dataclass
class TensorFile:
    """Tensors on their way into one file.

    Attributes:
        stream: takes the data.
        dtype: type that tensors are written in; of the first one where it is None.
    """

    stream: BinaryIO
    dtype: torch.dtype | None
    _entries: list[_Entry] = field(default_factory=list)

    def write(self, key: str, tensor: Tensor, *, rank_dimension: int | None = None, joined: int | None = None) -> None:
        """Append one tensor.

        Args:
            key: its name.
            tensor: finite floats.
            rank_dimension: which dimension :meth:`finish` may enlarge.
            joined: a dimension that is one with the next one in the file.

        Raises:
            AdapterError: the values are not finite, or do not fit the type.
        """
        self.dtype = self.dtype or tensor.dtype
        if self.dtype not in _TYPES:
            raise AdapterError(f"cannot write {key!r} as {self.dtype}; choose one of {', '.join(map(str, _TYPES))}")
        raw = _bytes(_converted(key, tensor.detach(), self.dtype))
        self.stream.write(raw.data)
        self._entries.append(_Entry(key, _TYPES[self.dtype], tuple(tensor.shape), raw.nbytes, rank_dimension, joined))

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors that were written the names that they have in the file."""
        self._entries = [replace(entry, key=names.get(entry.key, entry.key)) for entry in self._entries]

    def copy(self, key: str, whole: WholeWeight) -> None:
        """Append a tensor of another file as it is there, in its own type."""
        size = 0
        for chunk in whole.chunks():
            self.stream.write(chunk)
            size += len(chunk)
        self._entries.append(_Entry(key, whole.dtype, whole.shape, size, None))

    def finish(self, file: Path, data: Path, *, rank: int | None) -> None:
        """Header first (eight bytes of length, JSON padded to a multiple of eight), then the data, which is removed.

        Args:
            file: to write.
            data: what the stream was written to, closed.
            rank: that all factors get, by rows of zeros in A and columns of zeros in B; None leaves them as they are.
        """
        header: dict[str, dict[str, object]] = {}
        offset = 0
        for entry in self._entries:
            rows = entry.shape[entry.rank_dimension] if entry.rank_dimension is not None else 1
            end = offset + entry.size // max(rows, 1) * (rows + entry.missing(rank))
            header[entry.key] = {
                "dtype": entry.dtype,
                "shape": entry.written_shape(rank),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps({"__metadata__": {"format": "pt"}, **dict(sorted(header.items()))}, separators=(",", ":"))
        encoded = text.encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        with file.open("wb") as stream, data.open("rb") as source:
            stream.write(struct.pack("<Q", len(encoded)))
            stream.write(encoded)
            for entry in self._entries:
                for chunk in _padded(source, entry, rank):
                    stream.write(chunk)
        data.unlink()


def _padded(source: BinaryIO, entry: _Entry, rank: int | None) -> Iterator[bytes | memoryview]:
    """The next tensor of the data, with its zeros."""
    if not entry.missing(rank):
        left = entry.size
        while left:
            chunk = source.read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk
        return
    assert entry.rank_dimension is not None
    read = torch.frombuffer(bytearray(source.read(entry.size)), dtype=_FLOATS[entry.dtype]).reshape(entry.shape)
    padded = read.new_zeros(entry.padded_shape(rank))
    padded.narrow(entry.rank_dimension, 0, entry.shape[entry.rank_dimension]).copy_(read)
    yield _bytes(padded).data


def _bytes(tensor: Tensor):  # type: ignore[no-untyped-def]  # a NumPy array of bytes
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not all_finite(tensor):
        raise AdapterError(f"tensor {key!r} holds NaN or Inf; expected finite values. Check the merge and its inputs")
    stored = tensor.to(device="cpu", dtype=dtype).contiguous()
    if stored.dtype == tensor.dtype:
        return stored
    if not all_finite(stored):
        raise AdapterError(
            f"tensor {key!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} can hold "
            f"({torch.finfo(dtype).max:.3g}); write {_holding(tensor)} instead"
        )
    if all_zero(stored) and not all_zero(tensor):
        raise AdapterError(
            f"tensor {key!r} vanishes in {dtype}: its largest value is {float(tensor.abs().max()):.3g}; write "
            f"{_holding(tensor)} instead"
        )
    return stored


def _holding(tensor: Tensor) -> str:
    """Types that hold a tensor's largest value, as the end of a sentence."""
    largest = tensor.abs().max()
    names = []
    for dtype in _TYPES:
        there = largest.to(dtype)
        if bool(torch.isfinite(there)) and bool(there):
            names.append(str(dtype).removeprefix("torch."))
    return " or ".join(names)
