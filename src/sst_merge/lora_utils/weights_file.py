"""``adapter_model.safetensors``, opened: names, types and shapes of its tensors, and the tensors themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import AdapterError

__all__ = ["TensorHeaders", "opened", "tensor_headers"]

TensorHeaders = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name → type, as safetensors calls it, and shape."""


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file, mapped.

    Yields:
        What ``safe_open`` gives.

    Raises:
        AdapterError: it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file}: no readable safetensors file ({error}); copy or save it again") from error


def tensor_headers(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, types and shapes of a file's tensors; none is read.

    Raises:
        AdapterError: it cannot be read.
    """
    with opened(file) as handle:
        slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        return {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in slices.items()}
