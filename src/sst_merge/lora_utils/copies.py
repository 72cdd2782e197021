"""Weights that PEFT saves beside an adapted embedding or output layer: mere copies of the base, or new words.

PEFT writes ``<module>.base_layer.weight`` for every embedding with a LoRA, so that one which was grown by new words can
be loaded again. A merge holds no whole weights: it leaves a copy out, and refuses what only looks like one.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import AdapterError, BaseModelError
from .adapter import Adapter
from .base_weights import BaseWeights
from .folders import WEIGHTS_NAME
from .wrappers import PREFIX, plain_key

__all__ = ["check_copies", "weights_of_base"]

# What input embeddings are called; an output layer that is tied to them has no tensor of its own.
_INPUTS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
_ROWS = 4096  # compared at once


def weights_of_base(adapter: Adapter, folders: Iterable[str | Path]) -> BaseWeights | None:
    """Where an adapter's copies can be compared with the base: the first folder that holds its weights.

    Args:
        adapter: with or without copies.
        folders: of the base, or names that are no folders here.

    Returns:
        None where there is nothing to compare.

    Raises:
        AdapterError: copies that can be compared with nothing.
    """
    if not adapter.copies:
        return None
    for folder in folders:
        if Path(folder).is_dir():
            try:
                return BaseWeights.load(folder)
            except BaseModelError:
                continue
    raise AdapterError(
        f"adapter {adapter.name!r} ({adapter.path}): tensor {adapter.copies[0]!r} is a whole weight that PEFT saved "
        f"along, a copy of the base's or one with new words and trained rows, which a merge would lose; only the "
        f"base's weights can tell. Name the base's local folder (--base-model), or leave such weights out with "
        f"drop_modules_to_save=True (--drop-modules-to-save) where the vocabulary was not changed"
    )


def check_copies(adapter: Adapter, base: BaseWeights) -> None:
    """Compare an adapter's copies with the base, in the coarser type of the two.

    Raises:
        AdapterError: one is no copy; the message says what a merge would lose.
    """
    if not adapter.copies or adapter.path is None:
        return
    file = adapter.path / WEIGHTS_NAME
    for key in adapter.copies:
        try:
            with safe_open(file, framework="pt") as handle:
                stored: Tensor = handle.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{file}: cannot read {key!r} any more ({error}); was it replaced?") from error
        module = plain_key(key).removeprefix(PREFIX).rpartition(".base_layer.")[0]
        try:
            weight = _of_base(module, key.rpartition(".")[2], base, torch.promote_types(torch.float32, stored.dtype))
        except BaseModelError as error:
            raise AdapterError(
                f"{file}: tensor {key!r} cannot be compared with the base ({error}); {_way_out(base)}"
            ) from error
        _compare(f"{file}: tensor {key!r}", stored, weight, base)


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


def _compare(what: str, stored: Tensor, weight: Tensor, base: BaseWeights) -> None:
    if stored.shape[1:] != weight.shape[1:]:
        raise AdapterError(
            f"{what} has shape {tuple(stored.shape)}, the base {base.folder} has {tuple(weight.shape)} there; the "
            f"adapter was trained on another base"
        )
    common = min(len(stored), len(weight))
    changed = 0
    for start in range(0, common, _ROWS):
        mine, theirs = stored[start : min(start + _ROWS, common)], weight[start : min(start + _ROWS, common)]
        differ = (mine.to(weight.dtype) != theirs) & (mine != theirs.to(mine.dtype))
        changed += int(differ.reshape(len(differ), -1).any(dim=1).sum())
    grown = len(stored) - len(weight)
    if not grown and not changed:
        return
    lost = [f"{grown} new rows (words that were added to the vocabulary)"] if grown > 0 else []
    lost += [f"{changed} rows that differ from the base's"] if changed else []
    lost += [f"{-grown} rows less than the base's"] if grown < 0 else []
    raise AdapterError(
        f"{what} is no copy of the base's weight in {base.folder}: it has {' and '.join(lost)}, which a merge would "
        f"lose, as it holds low-rank updates alone; {_way_out(base)}"
    )


def _way_out(base: BaseWeights) -> str:
    return (
        f"give the base that the adapter was trained on (now {base.folder}), or leave such weights out with "
        f"drop_modules_to_save=True (--drop-modules-to-save)"
    )
