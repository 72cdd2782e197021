"""Base + ΔW as a model of its own, tensor by tensor: at no moment is there more than a few rows of one layer.

What no update touches is copied byte by byte. The rest is read in rows, added in float32 (float64 where the base has
it) and rounded once. Input and output embeddings that share one tensor, of which the adapter moves one, are written as
two, because base with adapter is such a model too.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..data_loader import PLAIN, BaseAccess, empty_model
from ..errors import ConversionError
from ..files import atomic_folder
from ..lora_utils import Adapter
from ..progress import Progress
from ..threads import one_thread
from .full_plan import FullPlan
from .shards import ShardTensor, write_shards

__all__ = ["SHARD_BYTES", "WrittenModel", "check_full_model", "write_full_model"]

SHARD_BYTES = 5_000_000_000
"""Largest shard, as most models on the hub have it."""

# Weights in other formats; everything else of a base's folder belongs to the model.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".index.json")
_OWN = ("config.json", "README.md")


@dataclass(frozen=True)
class WrittenModel:
    """What was written.

    Attributes:
        tensors: number of them.
        changed: names of those that differ from the base's.
        untied: names of parameters that are one tensor in the base and two here.
        files: names of the weights' files.
        notes: sentences for the user.
    """

    tensors: int
    changed: tuple[str, ...]
    untied: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]


def write_full_model(
    path: str | Path,
    adapter: Adapter,
    base: str | Path,
    *,
    dtype: str | None = None,
    force: bool = False,
    access: BaseAccess = PLAIN,
    tokenizer: Mapping[str, Path] = MappingProxyType({}),
    extra_files: Mapping[str, str] = MappingProxyType({}),
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write the folder of a model that gives what base with adapter gives.

    Args:
        path: folder to make.
        adapter: any that the base takes.
        base: local folder with safetensors.
        dtype: type of all floats; each tensor keeps its own by default.
        force: replace an existing folder.
        access: what may be read of the base.
        tokenizer: relative name → file, in place of the base's own tokenizer.
        extra_files: file name → text.
        shard_bytes: largest shard.
        progress: told about tensors.

    Raises:
        BaseModelError: no such base, a quantised one, or one that the adapter does not fit.
        ConversionError: an update that the model has no place for, or values that do not fit the type.
    """
    plan = FullPlan.checked(adapter, base, dtype, access)
    with atomic_folder(path, force=force) as folder, one_thread():
        tensors = [plan.tensor(name, source) for name, source in plan.sources.items()]
        files = write_shards(folder, list(_counted(tensors, progress)), most=shard_bytes)
        _copy_rest(plan.weights.folder, folder, tokenizer)
        text = json.dumps(_written_config(plan.config, dtype, untied=bool(plan.untied)), indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        for name, content in extra_files.items():
            (folder / name).write_text(content, encoding="utf-8")
        if plan.untied:
            _check_untied(folder, plan.untied, adapter, access)
    changed = tuple(name for name in plan.sources if name in plan.updates or name in plan.replaced)
    return WrittenModel(len(tensors), changed, plan.untied, tuple(files), plan.notes)


def check_full_model(
    adapter: Adapter, base: str | Path, *, dtype: str | None = None, access: BaseAccess = PLAIN
) -> int:
    """Whether base + ΔW can be written; no value is read.

    Args:
        adapter: as of :func:`write_full_model`.
        base: as of :func:`write_full_model`.
        dtype: as of :func:`write_full_model`.
        access: as of :func:`write_full_model`.

    Returns:
        Bytes of all tensors.

    Raises:
        BaseModelError: as of :func:`write_full_model`.
        ConversionError: as of :func:`write_full_model`.
    """
    plan = FullPlan.checked(adapter, base, dtype, access)
    return sum(plan.tensor(name, source).size for name, source in plan.sources.items())


def _written_config(config: Mapping[str, Any], dtype: str | None, *, untied: bool) -> dict[str, Any]:
    written = dict(config)
    inner = "text_config"
    if isinstance(config.get(inner), dict):
        written[inner] = _written_config(config[inner], dtype, untied=untied)
    if dtype is not None:
        written = {name: value for name, value in written.items() if name != "torch_dtype"} | {"dtype": dtype}
    return written | {"tie_word_embeddings": False} if untied else written


def _check_untied(folder: Path, untied: tuple[str, ...], adapter: Adapter, access: BaseAccess) -> None:
    """Whether transformers keeps apart what is written as two tensors.

    Raises:
        ConversionError: the architecture ties them whatever the configuration says.
    """
    built = empty_model(folder, modules=adapter.modules, task_type=adapter.task_type, access=access).model
    found = {name: id(parameter) for name, parameter in built.named_parameters(remove_duplicate=False)}
    if len({found.get(name) for name in untied}) != len(untied):
        raise ConversionError(
            f"{' and '.join(untied)} are one parameter of this architecture, whatever tie_word_embeddings says, and "
            f"the adapter moves one of them; leave that module out (--leave-out), or serve base and adapter apart"
        )


def _copy_rest(base: Path, folder: Path, tokenizer: Mapping[str, Path]) -> None:
    """Everything of the base but weights and its page; the tokenizer's own files where one is given."""
    for file in sorted(base.iterdir()):
        if file.is_file() and not file.name.startswith(".") and not file.name.endswith(_WEIGHTS):
            if file.name not in _OWN:
                shutil.copyfile(file, folder / file.name)
        elif file.name == "additional_chat_templates" and file.is_dir():
            shutil.copytree(file, folder / file.name)
    for name, source in tokenizer.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)


def _counted(tensors: list[ShardTensor], progress: Progress | None) -> Iterator[ShardTensor]:
    """The same tensors, which tell how many are done."""
    for place, tensor in enumerate(tensors):

        def pieces(tensor: ShardTensor = tensor, place: int = place) -> Iterator[bytes | Tensor]:
            yield from tensor.pieces()
            if progress is not None:
                progress("tensors", place + 1, len(tensors))

        yield ShardTensor(tensor.key, tensor.dtype, tensor.shape, pieces)
