"""Single tensors of a safetensors file, copied out of it, for files that are read module by module.

The library parses the whole header each time it opens a file, which costs more than the tensors of one module where
there are hundreds; and the pages of a file that stays mapped stay in the process. Here a header is parsed once.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..errors import AdapterError

__all__ = ["FLOAT_TYPES", "Place", "stored_tensors", "tensor_places"]

FLOAT_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Plain floats, by what safetensors calls them."""


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        dtype: as safetensors calls it.
        shape: of the tensor.
        start: its first byte in the file.
        end: the one after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def stored_tensors(file: Path, keys: Sequence[str]) -> list[Tensor]:
    """Some tensors of a file, as tensors of their own.

    Args:
        file: safetensors, whose header was checked before (:func:`~.weights_file.tensor_headers`).
        keys: names of tensors of plain floats.

    Raises:
        AdapterError: the file is gone or another one by now.
    """
    key = keys[0]
    try:
        with file.open("rb") as stream:
            places = tensor_places(file, stream)
            found = []
            for key in keys:
                place = places[key]
                raw = torch.empty(place.end - place.start, dtype=torch.uint8)
                stream.seek(place.start)
                if stream.readinto(raw.numpy().data) < raw.numel():
                    raise AdapterError(f"{file}: ends inside of tensor {key!r}; was it replaced?")
                found.append(raw.view(FLOAT_TYPES[place.dtype]).reshape(place.shape))
            return found
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
        raise AdapterError(f"{file}: cannot read {key!r} any more ({error}); was it replaced?") from error


def tensor_places(file: Path, stream: BinaryIO) -> Mapping[str, Place]:
    """Where the tensors of a file lie, parsed anew where it is not the file that it was.

    Args:
        file: its path.
        stream: the file, open.

    Raises:
        OSError: it cannot be read; ValueError, KeyError, TypeError or struct.error: it is no safetensors file.
    """
    now = os.fstat(stream.fileno())
    return _places(file, now.st_size, (now.st_dev, now.st_ino, now.st_mtime_ns))


@lru_cache(maxsize=256)
def _places(file: Path, size: int, _same: tuple[int, ...]) -> Mapping[str, Place]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        # What is no such file may begin with any number.
        header = json.loads(stream.read(min(length, size)))
    begin = 8 + length
    return MappingProxyType({
        key: Place(entry["dtype"], tuple(entry["shape"]), *(begin + offset for offset in entry["data_offsets"]))
        for key, entry in header.items()
        if key != "__metadata__"
    })
