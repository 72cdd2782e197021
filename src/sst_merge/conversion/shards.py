"""Safetensors shards with an index, written in one pass: sizes are known before the values are.

No more of a tensor is in memory than its producer hands over at once, and no file is copied a second time.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from ..errors import ConversionError

__all__ = ["INDEX", "ITEM_SIZES", "ShardTensor", "write_shards"]

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
"""Bytes of one number, by the name of its type in safetensors."""


@dataclass(frozen=True)
class ShardTensor:
    """One tensor to write.

    Attributes:
        key: its name.
        dtype: as safetensors calls it.
        shape: of the tensor.
        pieces: makes its values in order, as bytes or as contiguous tensors of that type.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes | Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


def write_shards(folder: Path, tensors: Sequence[ShardTensor], *, most: int) -> list[str]:
    """Write a model's tensors as transformers names the files.

    Args:
        folder: that is there.
        tensors: in the order in which they are written.
        most: bytes of a shard; a larger tensor gets one of its own.

    Returns:
        Names of the files.

    Raises:
        ConversionError: a producer gives more or fewer bytes than its tensor has.
    """
    shards: list[list[ShardTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.size for other in shards[-1]) + tensor.size > most:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write(folder / _SINGLE, shards[0])
        return [_SINGLE]
    names = [f"model-{place:05}-of-{len(shards):05}.safetensors" for place in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard)
    where = {tensor.key: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {
        "metadata": {"total_size": sum(tensor.size for tensor in tensors)},
        "weight_map": dict(sorted(where.items())),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, INDEX]


def _write(file: Path, tensors: Sequence[ShardTensor]) -> None:
    """Eight bytes of length, the header padded to a multiple of eight, the values.

    Raises:
        ConversionError: see :func:`write_shards`.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size
        header[tensor.key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        for tensor in tensors:
            start = stream.tell()
            for piece in tensor.pieces():
                stream.write(piece if isinstance(piece, bytes) else _bytes(piece))
            if stream.tell() - start != tensor.size:
                raise ConversionError(
                    f"{file.name}: tensor {tensor.key!r} came out as {stream.tell() - start} bytes, expected "
                    f"{tensor.size}; was the base replaced meanwhile?"
                )


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data
