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

import torch
from safetensors import safe_open
from torch import Tensor

from ..data_loader import PLAIN, BaseAccess, empty_model, torch_type
from ..errors import BaseModelError, ConversionError
from ..files import atomic_folder
from ..lora_utils import Adapter, BaseWeights, Conv1DKind, EmbeddingKind, LinearKind, LoraFactors, WholeWeight
from ..progress import Progress
from ..reading import parse_json, reading
from ..threads import one_thread
from .for_base import NamedForBase, named_for_base, stored_key
from .shards import ITEM_SIZES, ShardTensor, write_shards

__all__ = ["SHARD_BYTES", "WrittenModel", "check_full_model", "write_full_model"]

SHARD_BYTES = 5_000_000_000
"""Largest shard, as most models on the hub have it."""

_BLOCK = 16 << 20  # numbers of a tensor in memory at once
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
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
    plan = _Plan.checked(adapter, base, dtype, access)
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
    plan = _Plan.checked(adapter, base, dtype, access)
    return sum(plan.tensor(name, source).size for name, source in plan.sources.items())


@dataclass(frozen=True)
class _Update:
    """ΔW or a bias' update of one tensor."""

    module: str
    bias: bool


@dataclass(frozen=True)
class _Plan:
    """Which tensor of the base each written one comes from, and what is added to it.

    Attributes:
        sources: name to write → name in the base's files.
        updates: name to write → its update.
        replaced: name to write → whole weight of the adapter that stands for the base's.
        untied: names of shared parameters that are written one by one.
        config: the base's config.json.
        notes: sentences about renamed modules.
    """

    adapter: Adapter
    weights: BaseWeights
    dtype: torch.dtype | None
    sources: Mapping[str, str]
    updates: Mapping[str, _Update]
    replaced: Mapping[str, WholeWeight]
    untied: tuple[str, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def checked(cls, adapter: Adapter, base: str | Path, dtype: str | None, access: BaseAccess) -> "_Plan":
        weights = BaseWeights.load(base)
        config = _plain_config(weights.folder)
        named = named_for_base(adapter, base, access=access)
        return cls.of(named, weights, config, None if dtype is None else torch_type(dtype))

    @classmethod
    def of(
        cls, named: NamedForBase, weights: BaseWeights, config: Mapping[str, Any], dtype: torch.dtype | None
    ) -> "_Plan":
        adapter = named.adapter
        updates = {f"{module}.weight": _Update(module, bias=False) for module in adapter.modules}
        updates |= {f"{m}.bias": _Update(m, bias=True) for m in adapter.modules if _moves_bias(adapter, m)}
        replaced = {name.replace(".base_layer.", "."): whole for name, whole in adapter.whole.items()}
        for name, whole in replaced.items():
            if named.parameters.get(name) != whole.shape:
                has = f"{named.parameters[name]} there" if name in named.parameters else "none of that name"
                raise ConversionError(
                    f"adapter {adapter.name!r}: whole weight {name!r} has shape {whole.shape}, the base {named.base!r} "
                    f"has {has}; a grown vocabulary or a new head makes another model: save that with PEFT "
                    f"(merge_and_unload, save_pretrained), or leave it out (--drop-modules-to-save)"
                )
        keys = {name: stored_key(name, named.shared, weights) for name in named.parameters}
        moved = {*updates, *replaced}
        if missing := sorted(name for name in moved if keys.get(name) is None):
            raise ConversionError(
                f"adapter {adapter.name!r} updates {missing[0]!r}, which the base {named.base!r} does not have (a "
                f"layer without bias, or a weight that its files lack); leave that module out (--leave-out)"
            )
        untied = sorted({other for name in moved for other in named.shared.get(name, ())})
        # Names that the base's files use stay, unless a tensor is written under a name that they do not have.
        names = {key: key for key in weights.files}
        back = {key: name for name, key in keys.items() if key is not None and name not in named.shared}
        if untied and not all(name in weights.files for name in back.values()):
            names |= back
        sources = {written: key for key, written in names.items() if key not in {keys[name] for name in untied}}
        sources |= {name: str(keys[name]) for name in untied}
        writes = {name: name if name in sources else str(keys[name]) for name in moved}
        return cls(
            adapter=adapter,
            weights=weights,
            dtype=dtype,
            sources=dict(sorted(sources.items(), key=lambda item: (weights.files[item[1]], item[0]))),
            updates={writes[name]: update for name, update in updates.items()},
            replaced={writes[name]: whole for name, whole in replaced.items()},
            untied=tuple(untied),
            config=config,
            notes=named.notes,
        )

    def tensor(self, name: str, key: str) -> ShardTensor:
        """One tensor to write, not read yet.

        Raises:
            BaseModelError: a type that cannot be converted.
        """
        file = self.weights.folder / self.weights.files[key]
        stored = _stored(file, key)
        whole = self.replaced.get(name, stored)
        update = self.updates.get(name)
        # Of the base's type, whatever a trained head came in.
        target = self.dtype if self.dtype is not None and stored.dtype in _TYPES else _TYPES.get(stored.dtype)
        plain = {whole.dtype, stored.dtype} <= _TYPES.keys()
        asked = update is not None or name in self.replaced or (self.dtype is not None and stored.dtype[0] == "F")
        if stored.dtype not in ITEM_SIZES or (asked and not plain):
            raise BaseModelError(
                f"{file}: tensor {key!r} is {stored.dtype}, expected plain floats; give the unquantised model"
            )
        if update is None and (target is None or _NAMES[target] == whole.dtype):
            return ShardTensor(name, whole.dtype, whole.shape, whole.chunks)
        assert target is not None
        return ShardTensor(name, _NAMES[target], whole.shape, lambda: self._added(name, whole, update, target))

    def _added(self, name: str, whole: WholeWeight, update: _Update | None, target: torch.dtype) -> Iterator[Tensor]:
        """Some rows at a time of a tensor with its update."""
        working = torch.promote_types(torch.float32, torch.promote_types(_TYPES[whole.dtype], target))
        left, right = (None, None) if update is None else self._factors(update, working)
        rows = max(1, _BLOCK // max(1, whole.shape[1] if len(whole.shape) > 1 else 1))
        with reading(whole.file, BaseModelError, "a weight", "download the model again"), _open(whole.file) as handle:
            view = handle.get_slice(whole.key)
            for start in range(0, whole.shape[0] if whole.shape else 1, rows):
                block = (view[start : start + rows] if whole.shape else handle.get_tensor(whole.key)).to(working)
                if left is not None:
                    more = left[start : start + rows]
                    block = block + more if right is None else block.addmm(more, right)
                yield _rounded(name, block, target)

    def _factors(self, update: _Update, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """L and R of the update as the base stores it: L R, or L alone."""
        factors: LoraFactors = self.adapter.factors(update.module, dtype=dtype)
        if update.bias:
            bias = factors.bias_delta()
            assert bias is not None
            return bias, None
        a = factors.a[:, : factors.d_in]
        if isinstance(factors.kind, Conv1DKind | EmbeddingKind):
            return a.T.contiguous(), factors.b.T.contiguous()
        return (factors.b, a) if isinstance(factors.kind, LinearKind) else (factors.stored_delta(), None)


def _moves_bias(adapter: Adapter, module: str) -> bool:
    if not adapter.has_bias(module):
        return False
    # lora_bias is one switch for an adapter: layers without bias may hold zeros.
    bias = adapter.factors(module).bias_delta()
    return bias is not None and bool(bias.any())


def _open(file: Path) -> Any:
    return safe_open(file, framework="pt")


def _stored(file: Path, key: str) -> WholeWeight:
    with reading(file, BaseModelError, "safetensors weights", "download the model again"), _open(file) as handle:
        view = handle.get_slice(key)
        return WholeWeight(file, key, view.get_dtype(), tuple(view.get_shape()))


def _rounded(name: str, block: Tensor, target: torch.dtype) -> Tensor:
    stored = block.to(target).contiguous()
    if bool(torch.isfinite(block).all()) and not bool(torch.isfinite(stored).all()):
        raise ConversionError(
            f"tensor {name!r} reaches {float(block.abs().max()):.3g}, more than {target} can hold; choose bfloat16 or "
            f"float32 (--dtype)"
        )
    return stored


def _plain_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    with reading(file, BaseModelError, "the configuration of a model", "name the folder of the base (--base)"):
        config = parse_json(file.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise BaseModelError(f"{file}: holds a {type(config).__name__}, expected an object; download the model again")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "quantised") if isinstance(quantised, dict) else "quantised"
        raise BaseModelError(
            f"{file}: the base is {method}: its weights are codes, to which no ΔW can be added; give the folder of the "
            f"unquantised model (--base)"
        )
    return config


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
