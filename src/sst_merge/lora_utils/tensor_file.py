"""A safetensors file that is written one tensor at a time.

The data go straight to disk, so that memory holds one tensor however large the file is; the header, which comes first,
is written last. Where all tensors came as they were foretold, it gets the room that was left for it, and other
threads may have written some of them; else header and data are copied into a new file. Factors may be given a larger
rank then, by rows of zeros.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import AdapterError
from .stored_tensors import FLOAT_TYPES
from .values import all_finite, all_zero
from .whole_weights import WholeWeight

__all__ = ["Foretold", "TensorFile", "write_at"]

_TYPES = {dtype: name for name, dtype in FLOAT_TYPES.items()}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies in the data.

    Attributes:
        key: its name in the file.
        dtype: as safetensors calls it.
        shape: as written so far.
        size: bytes.
        start: of its first byte in the file of the data.
        rank_dimension: the dimension that is a factor's rank; None for tensors that have none.
        joined: the dimension that is one with the next one in the file: rank and number of a stack; None otherwise.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    start: int
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


@dataclass(frozen=True)
class Foretold:
    """Where tensors lie in a file, known before their values are.

    Attributes:
        dtype: of all.
        places: name → first byte in the file, and shape.
        room: bytes of the header, before them.
        end: bytes of the file.
    """

    dtype: torch.dtype
    places: Mapping[str, tuple[int, tuple[int, ...]]]
    room: int
    end: int

    def start(self, key: str, tensor: Tensor) -> int | None:
        """The first byte of a tensor, or None where it is not as foretold."""
        start, shape = self.places.get(key, (None, ()))
        return start if shape == tuple(tensor.shape) else None


def write_at(file: Path, tensors: Sequence[tuple[str, Tensor]], layout: Foretold) -> bool:
    """Write tensors to their places in a file that another thread finishes (:meth:`TensorFile.write`).

    Args:
        file: of the data.
        tensors: names and finite floats.
        layout: of the file.

    Returns:
        False, and nothing was written, where one is not as foretold.

    Raises:
        AdapterError: the values are not finite, or do not fit the type.
    """
    starts = [layout.start(key, tensor) for key, tensor in tensors]
    if None in starts:
        return False
    with file.open("r+b") as stream:
        for start, (key, tensor) in zip(starts, tensors, strict=True):
            assert start is not None
            stream.seek(start)
            stream.write(_bytes(_converted(key, tensor, layout.dtype)).data)
    return True


@dataclass
class TensorFile:
    """Tensors on their way into one file.

    Attributes:
        stream: takes the data.
        dtype: type that tensors are written in; of the first one where it is None.
        layout: how the tensors will most likely come; None where that is not known.
    """

    stream: BinaryIO
    dtype: torch.dtype | None
    layout: Foretold | None = None
    _entries: list[_Entry] = field(default_factory=list)
    _end: int = 0  # of the data so far, beyond all places that were foretold

    def __post_init__(self) -> None:
        if self.layout is not None:
            self._end = self.layout.end

    def write(self, key: str, tensor: Tensor, *, rank_dimension: int | None = None, joined: int | None = None) -> None:
        """Write one tensor: to its place, or behind all others.

        Args:
            key: its name.
            tensor: finite floats; on the device ``meta`` where :func:`write_at` wrote it.
            rank_dimension: which dimension :meth:`finish` may enlarge.
            joined: a dimension that is one with the next one in the file.

        Raises:
            AdapterError: the values are not finite, or do not fit the type.
        """
        self.dtype = self.dtype or tensor.dtype
        if self.dtype not in _TYPES:
            raise AdapterError(f"cannot write {key!r} as {self.dtype}; choose one of {', '.join(map(str, _TYPES))}")
        size = tensor.numel() * self.dtype.itemsize
        start = None if self.layout is None else self.layout.start(key, tensor)
        if start is None:
            start, self._end = self._end, self._end + size
        if not tensor.is_meta:
            stored = _converted(key, tensor.detach(), self.dtype)
            self._go_to(start)
            self.stream.write(_bytes(stored).data)
        self._entries.append(_Entry(key, _TYPES[self.dtype], tuple(tensor.shape), size, start, rank_dimension, joined))

    def _go_to(self, start: int) -> None:
        if self.stream.tell() != start:
            self.stream.seek(start)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors that were written the names that they have in the file."""
        self._entries = [replace(entry, key=names.get(entry.key, entry.key)) for entry in self._entries]

    def copy(self, key: str, whole: WholeWeight) -> None:
        """Append a tensor of another file as it is there, in its own type."""
        start = self._end
        self._go_to(start)
        for chunk in whole.chunks():
            self.stream.write(chunk)
            self._end += len(chunk)
        self._entries.append(_Entry(key, whole.dtype, whole.shape, self._end - start, start, None))

    def foretold(self, rank: int | None) -> Foretold | None:
        """The layout of a file of these tensors, all on the device ``meta``; None where one needs more zeros.

        Args:
            rank: that all factors get; None leaves them as they are.
        """
        if self.dtype is None or any(entry.missing(rank) for entry in self._entries):
            return None
        room = len(self.header(rank))
        places = {entry.key: (room + entry.start, entry.shape) for entry in self._entries}
        return Foretold(self.dtype, places, room, room + self._end)

    def header(self, rank: int | None) -> bytes:
        """Eight bytes of length, then JSON padded to a multiple of eight.

        Args:
            rank: that all factors get; None leaves them as they are.
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
        return struct.pack("<Q", len(encoded)) + encoded

    def finish(self, file: Path, data: Path, *, rank: int | None) -> None:
        """Header first, then the data, of which nothing else is left.

        Args:
            file: to write.
            data: what the stream was written to, closed.
            rank: that all factors get, by rows of zeros in A and columns of zeros in B; None leaves them as they are.
        """
        header = self.header(rank)
        if self._is_in_order(len(header)) and not any(entry.missing(rank) for entry in self._entries):
            with data.open("r+b") as stream:
                stream.write(header)
            data.rename(file)
            return
        with file.open("wb") as stream, data.open("rb") as source:
            stream.write(header)
            for entry in self._entries:
                source.seek(entry.start)
                for chunk in _padded(source, entry, rank):
                    stream.write(chunk)
        data.unlink()

    def _is_in_order(self, start: int) -> bool:
        """Whether the tensors lie one behind the other from some byte on, and nothing behind them."""
        for entry in self._entries:
            if entry.start != start:
                return False
            start += entry.size
        return start == self._end


def _padded(source: BinaryIO, entry: _Entry, rank: int | None) -> Iterator[bytes | memoryview]:
    """The tensor that begins here, with its zeros."""
    if not entry.missing(rank):
        left = entry.size
        while left:
            chunk = source.read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk
        return
    assert entry.rank_dimension is not None
    read = torch.frombuffer(bytearray(source.read(entry.size)), dtype=FLOAT_TYPES[entry.dtype]).reshape(entry.shape)
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
