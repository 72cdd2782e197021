"""Weights of a base model, one module at a time, from a local folder of safetensors shards.

Nothing here loads a model: a merge method that compares two bases reads the one tensor it is working on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import BaseModelError
from ..reading import parse_json, reading, reads
from .layouts import LINEAR, ModuleKind

__all__ = ["BaseWeights"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "download the model again"
_PLAIN = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class BaseWeights:
    """A folder of weights, opened but not read.

    Attributes:
        folder: with ``model.safetensors``, or ``model.safetensors.index.json`` and its shards.
        files: tensor name → file name.
    """

    folder: Path
    files: Mapping[str, str]

    @classmethod
    @reads(BaseModelError, "a folder of weights", _AGAIN, at=1)
    def load(cls, folder: str | Path) -> "BaseWeights":
        """Read the names of a folder's tensors.

        Raises:
            BaseModelError: no such folder, no safetensors weights in it, a damaged index or a missing shard.
        """
        place = Path(folder)
        if not place.is_dir():
            raise BaseModelError(
                f"base weights {str(folder)!r}: no such folder; weights are read layer by layer from a local folder, "
                f"so download a hub model first and give the folder of its snapshot"
            )
        if (place / _INDEX).is_file():
            files = _indexed(place)
        elif (place / _SINGLE).is_file():
            with _opened(place / _SINGLE) as handle:
                files = dict.fromkeys(handle.keys(), _SINGLE)
        else:
            raise BaseModelError(
                f"{place}: found neither {_SINGLE} nor {_INDEX}; expected a model saved as safetensors "
                f"(pickled .bin weights are not read; save the model again with save_pretrained)"
            )
        return cls(place, MappingProxyType(files))

    def key(self, module: str, *, kind: ModuleKind = LINEAR) -> str:
        """Name of the tensor that holds a module's weight.

        Checkpoints may have been saved with or without the head that adds a prefix: ``model.layers.0…`` is also
        found as ``layers.0…``, and ``h.0…`` also as ``transformer.h.0…``, where that is unambiguous.

        Raises:
            BaseModelError: no such tensor, or several.
        """
        exact = kind.tensor_name(module)
        if exact in self.files:
            return exact
        bare = exact.partition(".")[2]
        if bare != "weight" and bare in self.files:
            return bare
        longer = [key for key in self.files if key.partition(".")[2] == exact]
        if len(longer) == 1:
            return longer[0]
        found = f"several: {', '.join(sorted(longer))}" if longer else f"none among {len(self.files)} tensors"
        raise BaseModelError(
            f"{self.folder}: module {module!r} needs a tensor {exact!r}, found {found}; check that this is the base of "
            f"these adapters (a tied head has no tensor of its own: leave such a module out)"
        )

    def shape(self, module: str, *, kind: ModuleKind = LINEAR) -> tuple[int, int]:
        """(d_out, d_in) of a module of that kind, from the header alone.

        Raises:
            BaseModelError: no such tensor, of other dimensions, or quantised.
        """
        key = self.key(module, kind=kind)
        with self._file_of(key) as handle:
            view = handle.get_slice(key)
            shape, dtype = view.get_shape(), view.get_dtype()
        if len(shape) != kind.dimensions or dtype not in _PLAIN:
            raise BaseModelError(
                f"{self.folder}: tensor {key!r} is {dtype} of shape {tuple(shape)}; expected plain floats in "
                f"{kind.dimensions} dimensions. Give the unquantised model"
            )
        return kind.matrix_shape(tuple(shape))

    def weight(self, module: str, *, kind: ModuleKind = LINEAR, dtype: torch.dtype = torch.float32) -> Tensor:
        """One module's weight as (d_out, d_in), whatever orientation is stored."""
        self.shape(module, kind=kind)
        key = self.key(module, kind=kind)
        with self._file_of(key) as handle:
            stored: Tensor = kind.part(handle.get_tensor(key)).to(dtype)
        return kind.matrix(stored)

    def bias(self, module: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """One module's bias, (d_out,).

        Raises:
            BaseModelError: the files hold none.
        """
        key = f"{self.key(module).removesuffix('weight')}bias"
        if key not in self.files:
            raise BaseModelError(f"{self.folder}: no tensor {key!r}, the bias of module {module!r}; {_AGAIN}")
        with self._file_of(key) as handle:
            stored: Tensor = handle.get_tensor(key).to(dtype)
        return stored

    @contextmanager
    def _file_of(self, key: str) -> Iterator[Any]:
        file = self.folder / self.files[key]
        with reading(f"{file}: tensor {key!r}", BaseModelError, "a weight", _AGAIN), _opened(file) as handle:
            yield handle


def _opened(file: Path):  # type: ignore[no-untyped-def]  # safetensors has no types
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise BaseModelError(f"{file}: cannot be read as safetensors ({error}); download it again") from error


def _indexed(folder: Path) -> dict[str, str]:
    with reading(folder / _INDEX, BaseModelError, "an index of shards with a weight_map", _AGAIN):
        files = parse_json((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    if not isinstance(files, dict):
        raise BaseModelError(f"{folder / _INDEX}: weight_map is a {type(files).__name__}, expected a mapping")
    for shard in sorted({str(file) for file in files.values()}):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise BaseModelError(f"{folder / _INDEX}: names shard {shard!r}, which is not a file in that folder")
    return {str(key): str(file) for key, file in files.items()}
