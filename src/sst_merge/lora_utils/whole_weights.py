"""Whole trained weights beside the LoRA factors of a file: heads, grown embeddings (PEFT's ``modules_to_save``).

They are no low-rank update, so no method merges them. They are carried from one file to another as they are.
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AdapterError
from .stored_tensors import tensor_places
from .values import all_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HEADS", "WholeWeight", "heads_of", "names_held", "renamed_whole", "saved_part"]

HEADS: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type → modules that PEFT saves and expects in the file without being told, where the model has them."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class WholeWeight:
    """One tensor of a safetensors file, not read.

    Attributes:
        file: where it lies.
        key: its name there.
        dtype: as safetensors calls it, such as ``BF16``.
        shape: of the tensor.
    """

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as they lie in the file, piece by piece.

        Yields:
            At most one MiB at a time.

        Raises:
            AdapterError: the file is gone or another one by now.
        """
        try:
            with self.file.open("rb") as stream:
                place = tensor_places(self.file, stream)[self.key]
                stream.seek(place.start)
                left = place.end - place.start
                while left and (chunk := stream.read(min(left, _CHUNK))):
                    left -= len(chunk)
                    yield chunk
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise AdapterError(f"{self.file}: cannot read {self.key!r} any more ({error}); was it replaced?") from error
        if left:
            raise AdapterError(f"{self.file}: ends inside of tensor {self.key!r}; was it replaced?")

    def same_as(self, other: "WholeWeight") -> bool:
        """Whether both hold the same numbers; a type that is wider holds them too."""
        if self.shape != other.shape:
            return False
        if self.dtype == other.dtype:
            return all(mine == theirs for mine, theirs in zip(self.chunks(), other.chunks(), strict=True))
        import torch

        return torch.equal(self.tensor().to(torch.float64), other.tensor().to(torch.float64))

    def check(self) -> None:
        """Refuse NaN and Inf.

        Raises:
            AdapterError: with the tensor's name.
        """
        tensor = self.tensor()
        if not tensor.is_floating_point():
            return
        if not all_finite(tensor):
            bad = int((~tensor.double().isfinite()).sum())
            raise AdapterError(
                f"{self.file}: tensor {self.key!r} holds {bad} NaN or Inf of {tensor.numel()} values, expected finite "
                f"numbers; the training diverged or the file is damaged: use another checkpoint"
            )

    def tensor(self) -> "Tensor":
        """The tensor itself.

        Raises:
            AdapterError: the file is gone or another one by now.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as handle:
                tensor: Tensor = handle.get_tensor(self.key)
                return tensor
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{self.file}: cannot read {self.key!r} any more ({error}); was it replaced?") from error


def heads_of(task_type: str | None) -> tuple[str, ...]:
    """Names that PEFT adds to ``modules_to_save`` for a task; none for most."""
    return HEADS.get(task_type or "", ())


def saved_part(tensor: str, names: Collection[str]) -> str | None:
    """The module of ``modules_to_save`` that a tensor belongs to.

    Args:
        tensor: canonical name, such as ``bert.classifier.dense.weight``.
        names: ``modules_to_save``; PEFT takes every module whose full name ends in one of them.

    Returns:
        Full name of the outermost such module (``bert.classifier``), or None.
    """
    segments = tensor.split(".")[:-1]
    paths: Sequence[str] = [".".join(segments[: place + 1]) for place in range(len(segments))]
    return next((path for path in paths if path.endswith(tuple(names))), None) if names else None


def names_held(modules_to_save: Collection[str], tensors: Collection[str]) -> tuple[str, ...]:
    """Those of ``modules_to_save`` that have tensors; PEFT's list often names modules that the model does not have."""
    return tuple(name for name in modules_to_save if any(saved_part(tensor, (name,)) for tensor in tensors))


def renamed_whole(whole: Mapping[str, WholeWeight], names: Mapping[str, str]) -> dict[str, WholeWeight]:
    """The same tensors after some of their modules got other names.

    Args:
        whole: canonical tensor name → weight.
        names: module name → the new one.
    """
    return {f"{names.get(m, m)}.{rest}": weight for name, weight in whole.items() for m, rest in [_owner(name)]}


def _owner(tensor: str) -> tuple[str, str]:
    """The module of a whole weight, and the rest of its name."""
    module, _, rest = tensor.rpartition(".base_layer.")
    if module:
        return module, f"base_layer.{rest}"
    module, _, rest = tensor.rpartition(".")
    return module, rest
