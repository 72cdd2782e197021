"""A PEFT folder at a rank and in a type that a server takes."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from ..files import atomic_folder
from ..lora_utils import Adapter, LoraFactors, fitting_task_type, write_adapter_files
from .serve_rank import ModuleCut, at_rank

__all__ = ["rank_cuts", "write_peft"]


def rank_cuts(adapter: Adapter, rank: int) -> dict[str, ModuleCut]:
    """What a rank would cost, module by module; nothing is written.

    Args:
        adapter: without LoRA biases.
        rank: of all modules.

    Raises:
        ConversionError: a LoRA bias.
    """
    return {module: at_rank(adapter.factors(module), rank)[1] for module in adapter.modules}


def write_peft(
    path: str | Path,
    adapter: Adapter,
    *,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    extra_files: Mapping[str, str] = MappingProxyType({}),
    copies: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, ModuleCut]:
    """Write a PEFT folder whose modules all have one rank.

    Args:
        path: folder to make.
        adapter: what to write.
        rank: of all modules; by default the largest one, which is exact.
        dtype: type to write; that of the file, widened to float32, by default.
        force: replace an existing folder.
        extra_files: file name → text.
        copies: relative name → file that is copied there, such as a tokenizer's.

    Returns:
        Module → what its rank cost; empty where none was asked for.

    Raises:
        ConversionError: a rank is asked of an adapter with LoRA biases.
    """
    cuts: dict[str, ModuleCut] = {}

    def modules() -> Iterator[tuple[str, LoraFactors]]:
        for module in adapter.modules:
            factors = adapter.factors(module)
            if rank is not None:
                factors, cuts[module] = at_rank(factors, rank)
            yield module, factors

    with atomic_folder(path, force=force) as folder:
        write_adapter_files(
            folder,
            modules(),
            base_model=adapter.base_model,
            task_type=fitting_task_type(adapter.task_type, adapter.whole),
            dtype=dtype,
            whole=adapter.whole,
            modules_to_save=adapter.modules_to_save,
        )
        for name, source in copies.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)
        for name, text in extra_files.items():
            (folder / name).write_text(text, encoding="utf-8")
    return cuts
