"""A base that is a GGUF file: found, and refused before anything is loaded where transformers could not read it.

Transformers turns the blocks of the file back into plain numbers when it loads them, so the model that runs is an
ordinary one whose weights hold the file's rounding.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..reading import reading
from .access import PLAIN, BaseAccess
from .base_files import find_base_repo

__all__ = ["gguf_path", "gguf_types", "named_gguf", "open_gguf"]


def gguf_path(reference: str | Path, access: BaseAccess = PLAIN) -> Path | None:
    """The GGUF file of a base, fetched where it is on the hub; None where the base is none.

    Args:
        reference: folder, name of the hub, or a GGUF file of either.
        access: may name the file.

    Raises:
        BaseModelError: there is no such file, or it cannot be fetched.
    """
    file = access.gguf(reference)
    if file is None:
        return None
    repo = find_base_repo(reference, access)
    if repo is None:
        folder = access.local(reference)
        assert folder is not None, "find_base_repo refuses what is not here"
        if not (folder / file).is_file():
            there = named_gguf(entry.name for entry in folder.iterdir())
            raise BaseModelError(f"{folder}: no file {file!r} (gguf_file){there}; correct the name")
        return folder / file
    inside = repo.name.subfolder
    names = repo.inside(inside)
    if file not in names:
        raise BaseModelError(
            f"base model {str(reference)!r}: its repository has no file {file!r}{named_gguf(names)}; correct the name"
        )
    return repo.fetch([f"{inside}/{file}" if inside else file]) / inside / file


def named_gguf(names: Any) -> str:
    """The GGUF files among some names, as a part of a sentence; empty where there are none."""
    found = sorted(name for name in names if str(name).lower().endswith(".gguf"))
    shown = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    return f"; GGUF files there: {shown}" if found else ""


def gguf_types(file: Path) -> dict[str, int]:
    """Read the header of a GGUF file, and refuse what transformers cannot load.

    Returns:
        Type of ggml → how many tensors have it.

    Raises:
        BaseModelError: the package gguf is missing, the file is damaged, an adapter or one part of several, or it has
            tensors of a type that the package cannot turn back into numbers.
    """
    state = file.stat()
    return dict(_types(file, state.st_mtime_ns, state.st_size))


def open_gguf(file: Path) -> Any:
    """Read the header of a model's GGUF file.

    Args:
        file: its path.

    Returns:
        The package gguf's reader.

    Raises:
        BaseModelError: the package gguf is missing, or the file is damaged, an adapter or one part of several.
    """
    try:
        import gguf
    except ImportError as error:
        raise BaseModelError(
            f"{file} is read by the package gguf, which is not installed; run: pip install 'sst-merge[gguf]'"
        ) from error
    with reading(file, BaseModelError, "a GGUF file of a model", "name the GGUF file of the base (--base)"):
        reader = gguf.GGUFReader(file)
        kind, parts = (_value(reader, name) for name in ("general.type", "split.count"))
    if kind not in {None, "model"}:
        raise BaseModelError(f"{file}: found a GGUF file of type {kind!r}, expected that of a model; name the base's")
    if parts is not None and int(parts) > 1:
        raise BaseModelError(
            f"{file}: one of {parts} parts of a model, expected a single file; join them with llama.cpp's "
            f"llama-gguf-split --merge"
        )
    return reader


@lru_cache(maxsize=4)
def _types(file: Path, _changed: int, _size: int) -> Mapping[str, int]:
    reader = open_gguf(file)
    import gguf

    types = Counter(tensor.tensor_type for tensor in reader.tensors)
    if not types:
        raise BaseModelError(f"{file}: found no tensors; name the GGUF file of a model (--base)")
    for one in types:
        if not _can_be_read(gguf, one):
            raise BaseModelError(
                f"{file}: {types[one]} of its tensors are {one.name}, which the installed gguf cannot turn back into "
                f"numbers; take another quantisation of this model, such as Q8_0 or Q4_K_M, or a newer gguf"
            )
    return {one.name: count for one, count in sorted(types.items())}


def _value(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _can_be_read(gguf: Any, kind: Any) -> bool:
    """Whether a single block of zeros can be turned into numbers."""
    import numpy as np

    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, size), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True
