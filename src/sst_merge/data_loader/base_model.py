"""A base model and its tokenizer by folder or hub id, on a device of this machine: loaded here and nowhere else.

Torch and transformers are imported when something is loaded, so that configurations can be checked without them.
"""

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import processes
from ..errors import BaseModelError, ConfigError, SSTMergeError
from ..files import file_sha256
from .access import PLAIN, BaseAccess
from .base_files import base_files
from .devices import computing_type, resolve_device
from .model_class import code_advice, empty_model, first_line
from .quantised import QuantisedBase, load_options, require_loadable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["base_fingerprint", "check_weights", "load_base_model", "load_tokenizer", "resolve_device", "torch_type"]

_DECIDING = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")


def torch_type(name: str) -> "torch.dtype":
    """A type of torch by its name, such as ``bfloat16``.

    Raises:
        ConfigError: torch has no such type.
    """
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype: {name!r} is not a type of torch; expected one such as float32, bfloat16 or float16")
    return found


def load_base_model(
    reference: str,
    *,
    modules: Collection[str] = (),
    dtype: str = "auto",
    device: str = "cpu",
    device_map: str | None = None,
    access: BaseAccess = PLAIN,
) -> "PreTrainedModel":
    """Load a causal language model for reading: evaluation mode, no dropout.

    Args:
        reference: folder or hub id, or a GGUF file of either.
        modules: names of modules that adapters touch; they decide as which class it is loaded
            (:func:`~.model_class.empty_model`). Without them as ``AutoModelForCausalLM``.
        dtype: name of a type, or ``auto`` for the one that it is stored in, as far as the device multiplies it
            (:func:`~.devices.computing_type`); of a GGUF file that is float32.
        device: where the model goes; :func:`resolve_device` makes one out of ``auto``.
        device_map: how transformers spreads the model over several devices, such as ``auto``; ``device`` is not used
            then.
        access: what may be read.

    Returns:
        The model.

    Raises:
        BaseModelError: transformers cannot load it, a package that its quantisation needs is missing, or a GGUF file
            lacks weights.
        ConfigError: a device map, and several processes that would each spread the model over the same devices; or a
            type that the device does not have.
    """
    if device_map is not None and processes.count() > 1:
        raise ConfigError(
            f"device_map: {device_map!r} spreads a model over all devices, and each of {processes.count()} processes "
            f"would do so; start one process, or leave it out"
        )
    import transformers

    kind = None if dtype == "auto" else torch_type(dtype)
    found = require_loadable(reference, access)
    packed = found is not None and found.method != "gguf"
    if kind is not None and _is_too_wide(kind, device):
        raise ConfigError(f"model_dtype: {dtype} is none that device {device} has; take float32, bfloat16 or float16")
    if found is not None and not packed:
        kind = kind or torch_type("float32")
    options: dict[str, Any] = {"dtype": kind or "auto"}
    if device_map is not None or packed:
        # Packed weights are made on their device; later they cannot always be moved.
        options["device_map"] = device_map or {"": device}
    if found is not None:
        options |= load_options(found, access, kind)
    name = "AutoModelForCausalLM"
    if modules:
        name = empty_model(reference, modules=modules, generative=True, access=access).class_name
    with _loading(reference, "model", access), warnings.catch_warnings():
        # It says that of those fields only the ones that a loader reads count, which is what is wanted.
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        model, report = getattr(transformers, name).from_pretrained(
            access.repo(reference), **options, **access.of_weights(reference), output_loading_info=True
        )
    if found is not None and not packed and report["missing_keys"]:
        # Transformers draws what a file lacks, and goes on.
        raise BaseModelError(
            f"base model {reference!r}: {found.fields['file']} has no weights for {min(report['missing_keys'])} (of "
            f"{len(report['missing_keys'])} that transformers looks for); take a whole GGUF file of this model"
        )
    if packed:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line per layer and pass on what it rounds
    elif device_map is None:
        stored = str(model.dtype).removeprefix("torch.")
        slow = kind is None and computing_type(stored, device) != stored
        model = (model.float() if slow or _is_too_wide(model.dtype, device) else model).to(device)
    return model.eval()


def check_weights(reference: str, access: BaseAccess = PLAIN) -> QuantisedBase | None:
    """Refuse a base whose weights could not be loaded later, without reading or fetching any.

    Args:
        reference: folder or hub id, or a GGUF file of either.
        access: what may be read.

    Returns:
        How they are quantised; None for plain numbers.

    Raises:
        BaseModelError: a folder or repository that holds pickles alone, which may not be read; or as
            :func:`~.quantised.require_loadable`.
    """
    if access.allow_pickle or access.gguf(reference) is not None:
        return require_loadable(reference, access)
    folder = Path(reference)
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else base_files(reference, access)
    pickles = sorted(name for name in names if fnmatch(name, "pytorch_model*.bin"))
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise BaseModelError(
            f"base model {reference!r}: found {pickles[0]} but no safetensors; pickles can run code and are read "
            f"only with --allow-pickle. Save the model again with safe_serialization=True, or allow it"
        )
    return require_loadable(reference, access)


def load_tokenizer(reference: str, *, access: BaseAccess = PLAIN) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a base model, or of another folder that holds one.

    Raises:
        BaseModelError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    with _loading(reference, "tokenizer", access):
        return AutoTokenizer.from_pretrained(access.repo(reference), **access.of(reference))


def base_fingerprint(reference: str, commit: str | None = None) -> Mapping[str, Any]:
    """A base model beyond its name.

    Args:
        reference: folder, GGUF file or hub id.
        commit: of the hub's repository, as transformers resolved it.

    Returns:
        ``name``, and ``files`` (file name → SHA-256) for a folder or file, ``commit`` for a hub id.
    """
    folder = Path(reference)
    if folder.is_file():
        return {"name": folder.name, "files": {folder.name: file_sha256(folder)}}
    if not folder.is_dir():
        return {"name": reference, "commit": commit}
    files = sorted(file for file in folder.iterdir() if file.suffix in _DECIDING)
    return {"name": folder.resolve().name, "files": {file.name: file_sha256(file) for file in files}}


def _is_too_wide(dtype: "torch.dtype", device: str) -> bool:
    return dtype == torch_type("float64") and device.startswith("mps")


@contextmanager
def _loading(reference: str, what: str, access: BaseAccess) -> Iterator[None]:
    try:
        yield
    except SSTMergeError:
        raise
    # Classes of models and tokenizers are other people's code, and raise anything on files that they do not expect.
    except Exception as error:
        advice = code_advice(error, access)
        if what == "model" and not access.allow_pickle and "safetensors" in str(error):
            advice += "; weights saved as pickles can run code and are read only with --allow-pickle"
        # A tokenizer may be asked for by a name of its own (--tokenizer), which is no base model.
        found, expected = (
            (f"base model {reference!r}: transformers cannot load its model", "a causal language model")
            if what == "model"
            else (f"{reference!r}: transformers cannot load its tokenizer", "a model or adapter with a tokenizer")
        )
        raise BaseModelError(
            f"{found} ({first_line(error)}); expected a folder or hub id of {expected}{advice}"
        ) from error
