"""``adapter_model.bin``: a pickle, read as tensors alone and written as safetensors aside."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import AdapterError
from ...reading import reading
from ..folders import CONFIG_NAME, PICKLE_NAME, WEIGHTS_NAME

__all__ = ["unpickle"]


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
