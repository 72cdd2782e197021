"""What lies in a folder: the two files of a PEFT adapter, or something else that is called by its name.

Only names and first bytes are looked at here, but for a fingerprint.
"""

import fnmatch
from collections.abc import Collection
from pathlib import Path

from ..errors import AdapterError
from ..files import file_sha256
from ..hub_names import near_name

__all__ = [
    "CONFIG_NAME",
    "MLX_WAY_OUT",
    "PICKLE_NAME",
    "WEIGHTS_NAME",
    "adapter_fingerprints",
    "find_config",
    "find_weights",
    "no_weights",
]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
MLX_WAY_OUT = (
    "its factors are transposed and its scale is another one; fuse it into its base with mlx_lm.fuse and extract a "
    "LoRA, or train with PEFT"
)
_LIGHTNING = "load it where it was trained and call save_pretrained of the PEFT model in it"
_LFS = b"version https://git-lfs.github.com/spec/v1"
# Pattern of a file's name → what the folder is, and what to do. The first that fits is said.
_OTHER_KINDS = (
    ("adapters.safetensors", f"an mlx-lm adapter; {MLX_WAY_OUT}"),
    ("adapters.npz", f"an mlx-lm adapter; {MLX_WAY_OUT}"),
    ("lit_model*.pth*", "a LitGPT checkpoint, whose layers have other names and shapes; train the adapter with PEFT"),
    ("*.ckpt", f"a Lightning checkpoint; {_LIGHTNING}"),
    ("checkpoints/*.ckpt", f"a Lightning checkpoint; {_LIGHTNING}"),
    ("pytorch_lora_weights.safetensors", "a LoRA of diffusers, with names of its own; expected one of PEFT"),
    ("*.distcp", "a distributed checkpoint in shards; gather it and call save_pretrained"),
    ("*.gguf", "a GGUF file; give the PEFT folder that it was converted from"),
    ("model*.safetensors", "a whole model, no adapter; give the folder of an adapter of it"),
    ("pytorch_model*.bin", "a whole model, no adapter; give the folder of an adapter of it"),
)


def find_config(folder: Path) -> Path:
    """The configuration of an adapter.

    Raises:
        AdapterError: no folder, or one without it; the message names what it holds instead.
    """
    file = folder / CONFIG_NAME
    if not folder.is_dir():
        missing = f"no such folder{near_name(folder)}"
        found = "a file; give the folder that holds it" if folder.is_file() else missing
        raise AdapterError(f"{folder}: {found}; expected a PEFT adapter folder with {CONFIG_NAME}")
    if file.is_file():
        _refuse_pointer(file)
        return file
    raise AdapterError(
        f"{folder}: no {CONFIG_NAME}{_other_kind(_names(folder))}; expected a folder written by PEFT's save_pretrained"
    )


def find_weights(folder: Path) -> Path:
    """The weights of an adapter whose configuration is there.

    Raises:
        AdapterError: there are none in one safetensors file; the message says what there is instead.
    """
    file = folder / WEIGHTS_NAME
    if file.is_file():
        _refuse_pointer(file)
        return file
    raise AdapterError(no_weights(str(folder), _names(folder)))


def no_weights(where: str, names: Collection[str]) -> str:
    """What is wrong with files that hold no weights that are read here, and what they are instead.

    Args:
        where: that they lie, for the message.
        names: of the files, relative.
    """
    top = sorted(name for name in names if "/" not in name)
    shards = fnmatch.filter(top, "adapter_model*-of-*") or fnmatch.filter(top, "adapter_model*.index.json")
    if shards:
        return (
            f"{where}: no {WEIGHTS_NAME}, but {shards[0]}: the weights are in shards, which PEFT does not read "
            f"either; join them into one {WEIGHTS_NAME}, or load and save the adapter where it was trained"
        )
    pickles = fnmatch.filter(top, "*.bin")
    if pickles:
        return (
            f"{where}: found {', '.join(pickles)} but no {WEIGHTS_NAME}; a pickle can run code, and is opened only "
            f"where it is called {PICKLE_NAME}, as tensors alone, with --allow-pickle (allow_pickle: true). Or load "
            f"the adapter with PEFT where you trust it and save it with safe_serialization=True"
        )
    return f"{where}: no {WEIGHTS_NAME}{_other_kind(names)}; expected a folder written by PEFT's save_pretrained"


def adapter_fingerprints(folder: Path) -> dict[str, str]:
    """File name → SHA-256 of the files of a PEFT folder that decide its ΔW."""
    weights = WEIGHTS_NAME if (folder / WEIGHTS_NAME).exists() or not (folder / PICKLE_NAME).exists() else PICKLE_NAME
    return {name: file_sha256(folder / name) for name in (CONFIG_NAME, weights)}


def _refuse_pointer(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_LFS))
    except OSError as error:
        raise AdapterError(f"{file}: cannot be read ({error}); check its permissions, or copy it again") from error
    if start == _LFS:
        raise AdapterError(
            f"{file}: a git-lfs pointer of {file.stat().st_size} bytes, not the file itself; fetch it with git lfs "
            f"pull (git lfs install before the clone), or download the repository again"
        )


def _names(folder: Path) -> list[str]:
    """Files of a folder, and those of its checkpoints."""
    found = [*folder.iterdir(), *folder.glob("checkpoints/*")]
    return [file.relative_to(folder).as_posix() for file in found]


def _other_kind(names: Collection[str]) -> str:
    for pattern, kind in _OTHER_KINDS:
        found = sorted(
            name for name in names if fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")
        )
        if found:
            return f", but {found[0].rpartition('/')[2]}: {kind}"
    return ""
