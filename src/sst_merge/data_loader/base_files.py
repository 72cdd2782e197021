"""Files of a base model that is a repository of the hub: asked for before anything is loaded, fetched as a folder."""

from fnmatch import fnmatch
from pathlib import Path

from ..errors import BaseModelError
from ..reading import parse_json, reading
from .access import PLAIN, BaseAccess
from .hub import HubRepo, look_up
from .own_tokenizer import tokenizer_files

__all__ = ["base_files", "base_folder", "find_base_repo", "has_weights"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")


def find_base_repo(reference: str | Path, access: BaseAccess = PLAIN) -> HubRepo | None:
    """Ask the hub for a base; None for a folder or a GGUF file here.

    Args:
        reference: folder or name of the hub, or a GGUF file of either.
        access: its revision.

    Raises:
        BaseModelError: neither a folder here nor a repository that can be read.
    """
    if access.local(reference) is not None:
        return None
    name = access.hub_name(reference)
    if name is None:
        raise BaseModelError(
            f"base model {str(reference)!r}: no usable configuration, for there is no such folder"
            f"{' or GGUF file' if access.gguf(reference) else ''}, and it is no "
            f"name of the hub (user/name, user/name@revision, user/name/folder)"
        )

    def refusal(said: str) -> BaseModelError:
        return BaseModelError(
            f"base model {str(reference)!r}: no usable configuration, for there is no such folder here, and on the "
            f"hub: {said}. Another base is named with base_model (--base-model)"
        )

    return look_up(name, refusal)


def base_files(reference: str | Path, access: BaseAccess = PLAIN) -> list[str]:
    """Names of the files beside a base's configuration on the hub; none for a folder, or where the hub is not reached.

    Raises:
        BaseModelError: as :func:`find_base_repo`.
    """
    repo = find_base_repo(reference, access)
    return repo.inside(repo.name.subfolder) if repo is not None and repo.reached else []


def base_folder(reference: str | Path, access: BaseAccess = PLAIN) -> Path:
    """A base as a folder with configuration, tokenizer and weights: as it is, or fetched from the hub.

    Fetched is what transformers would load: one file of safetensors or its shards, pickles only where they may be read
    and there is nothing else.

    Args:
        reference: folder or name of the hub.
        access: its revision, and whether pickles may be read.

    Raises:
        BaseModelError: as :func:`find_base_repo`, there are no weights that may be read, or a GGUF file is asked for.
    """
    if (file := access.gguf(reference)) is not None:
        raise BaseModelError(
            f"base model {str(reference)!r}: its weights themselves are needed here, and {file} holds their quantised "
            f"form; give the folder or hub id of the model as safetensors"
        )
    repo = find_base_repo(reference, access)
    if repo is None:
        return Path(reference)
    folder = repo.name.subfolder
    files = [file for file in repo.inside(folder) if "/" not in file]
    start = f"{folder}/" if folder else ""
    weights = [_SINGLE] if _SINGLE in files or not repo.reached else []
    if _INDEX in files:
        weights = _shards(repo.fetch([f"{start}{_INDEX}"]) / start / _INDEX)
    if not weights and access.allow_pickle:
        weights = [file for file in files if any(fnmatch(file, pattern) for pattern in _PICKLES)]
    if not weights:
        raise BaseModelError(
            f"base model {str(reference)!r}: its repository has neither {_SINGLE} nor shards of it"
            + ("" if access.allow_pickle else ", and pickles (.bin) are read only with --allow-pickle")
            + "; expected a model saved as safetensors"
        )
    wanted = {
        *weights,
        *tokenizer_files(files),
        *(file for file in files if file.endswith((".json", ".txt", ".model"))),
    }
    return repo.fetch([f"{start}{file}" for file in wanted]) / folder


def has_weights(folder: Path) -> bool:
    """Whether a folder holds all the weights of a model, as safetensors or pickles."""
    index = folder / _INDEX
    if index.is_file():
        return all((folder / shard).is_file() for shard in _shards(index))
    return any(folder.glob("model.safetensors")) or any(file for name in _PICKLES for file in folder.glob(name))


def _shards(index: Path) -> list[str]:
    with reading(index, BaseModelError, "an index of shards with a weight_map", "see what the repository holds"):
        return sorted({str(file) for file in parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()})
