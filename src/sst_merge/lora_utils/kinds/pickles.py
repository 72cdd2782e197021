"""``adapter_model.bin``: a pickle, read as tensors alone and written as safetensors aside."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import AdapterError
from ...reading import reading
from ..folders import CONFIG_NAME, PICKLE_NAME, WEIGHTS_NAME

__all__ = ["is_pickle", "named_as", "unpickle"]


def is_pickle(folder: Path) -> bool:
    """Whether an adapter's weights are a pickle and nothing else."""
    return (folder / PICKLE_NAME).is_file() and not (folder / WEIGHTS_NAME).is_file()


@contextmanager
def named_as(folder: Path, aside: Path) -> Iterator[None]:
    """Errors about a copy of an adapter name the adapter's own files.

    Args:
        folder: of the adapter.
        aside: of its copy, or the same folder.

    Raises:
        AdapterError: whatever was raised inside.
    """
    try:
        yield
    except AdapterError as error:
        if aside == folder or str(aside) not in str(error):
            raise
        own = folder / (PICKLE_NAME if is_pickle(folder) else WEIGHTS_NAME)
        said = str(error).replace(str(aside / WEIGHTS_NAME), str(own)).replace(str(aside), str(folder))
        raise AdapterError(said) from error


def unpickle(folder: Path, target: Path) -> None:
    """Write a folder's pickle into another one as safetensors, with its configuration.

    Only what PyTorch counts as data is read (``weights_only``): a pickle that would run code is refused.

    Args:
        folder: with ``adapter_model.bin``.
        target: an empty folder.

    Raises:
        AdapterError: the pickle holds something else than named tensors.
    """
    file = folder / PICKLE_NAME
    advice = (
        "nothing else is read of a pickle. Load the adapter with PEFT where you trust it, and save it with "
        "safe_serialization=True"
    )
    with reading(file, AdapterError, "tensors alone", advice):
        found = torch.load(file, map_location="cpu", weights_only=True)
    tensors = found if isinstance(found, dict) else {}
    if not tensors or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()):
        raise AdapterError(
            f"{file}: holds {type(found).__name__} of other things than named tensors, expected an adapter's tensors; "
            f"give the folder that PEFT's save_pretrained wrote"
        )
    # Tensors that share memory or are views cannot be saved as they are.
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, target / WEIGHTS_NAME)
    shutil.copyfile(folder / CONFIG_NAME, target / CONFIG_NAME)
