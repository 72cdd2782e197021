"""Weights that PEFT saves beside an adapted embedding or output layer: mere copies of the base, or new words.

PEFT writes ``<module>.base_layer.weight`` for every embedding with a LoRA, so that one which was grown by new words can
be loaded again. What is a copy of the base need not be written again; what is none, or cannot be compared, is carried.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BaseModelError
from .adapter import Adapter
from .base_weights import BaseWeights

__all__ = ["true_copies"]

# What input embeddings are called; an output layer that is tied to them has no tensor of its own.
_INPUTS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
_ROWS = 4096  # compared at once
_COPY = ".base_layer."


def true_copies(adapter: Adapter, folders: Iterable[str | Path]) -> tuple[str, ...]:
    """Whole weights of an adapter that say nothing, because the base has the same values.

    Args:
        adapter: with or without whole weights.
        folders: of the base, or names that are no folders here; the first that holds weights counts.

    Returns:
        Canonical names; none where there is no base to compare with.

    Raises:
        AdapterError: the adapter's file is gone.
    """
    names = [name for name in adapter.whole if _COPY in name]
    base = _first(folders) if names else None
    return () if base is None else tuple(name for name in names if _is_copy(adapter, name, base))


def _first(folders: Iterable[str | Path]) -> BaseWeights | None:
    for folder in folders:
        if Path(folder).is_dir():
            try:
                return BaseWeights.load(folder)
            except BaseModelError:
                continue
    return None


def _is_copy(adapter: Adapter, name: str, base: BaseWeights) -> bool:
    stored = adapter.whole[name].tensor()
    module, _, leaf = name.rpartition(_COPY)
    try:
        weight = _of_base(module, leaf, base, torch.promote_types(torch.float32, stored.dtype))
    except BaseModelError:
        return False
    if stored.shape != weight.shape:
        return False
    for start in range(0, len(stored), _ROWS):
        mine, theirs = stored[start : start + _ROWS], weight[start : start + _ROWS]
        # In the coarser type of the two.
        if bool(((mine.to(weight.dtype) != theirs) & (mine != theirs.to(mine.dtype))).any()):
            return False
    return True


def _of_base(module: str, leaf: str, base: BaseWeights, dtype: torch.dtype) -> Tensor:
    """A module's weight or bias in the base; an output layer that is tied has that of the input embedding.

    Raises:
        BaseModelError: the base has none, or none that can be compared.
    """
    name = module
    try:
        base.key(module)
    except BaseModelError:
        ends = tuple(f"{name}.weight" for name in _INPUTS)
        tied = [key.removesuffix(".weight") for key in base.files if key.endswith(ends)]
        name = tied[0] if len(tied) == 1 else module
    if leaf == "weight":
        return base.weight(name, dtype=dtype)
    key = f"{base.key(name).removesuffix('.weight')}.{leaf}"
    if key not in base.files:
        raise BaseModelError(f"{base.folder}: no tensor {key!r}")
    try:
        with safe_open(base.folder / base.files[key], framework="pt") as handle:
            found: Tensor = handle.get_tensor(key).to(dtype)
            return found
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"{base.folder}: cannot read {key!r} ({error})") from error
