"""Which tensor of a base each tensor of a whole model comes from, and what is added to it; no value is read.

Values come later, some rows at a time, when the tensors that are planned here are written.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..data_loader import BaseAccess, torch_type
from ..errors import BaseModelError, ConversionError
from ..lora_utils import (
    Adapter,
    BaseWeights,
    Conv1DKind,
    EmbeddingKind,
    ExpertKind,
    LinearKind,
    LoraFactors,
    RouterKind,
    WholeWeight,
    all_finite,
    expert_module,
    parameter_of,
)
from ..reading import parse_json, reading
from .expert_tensors import expert_tensors, on_disk
from .for_base import NamedForBase, named_for_base, stored_key
from .shards import ITEM_SIZES, ShardTensor

__all__ = ["FullPlan"]

_BLOCK = 16 << 20  # numbers of a tensor in memory at once
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True)
class _Update:
    """ΔW or a bias' update of one tensor.

    Attributes:
        modules: that it is of: one, or all experts of a stack.
        bias: of the module's bias.
        rows: first and end of those of ΔW that the tensor has; None for all.
        stacked: whether the tensor has one ΔW below the other.
    """

    modules: tuple[str, ...]
    bias: bool = False
    rows: tuple[int, int] | None = None
    stacked: bool = False


@dataclass(frozen=True)
class FullPlan:
    """Which tensor of the base each written one comes from, and what is added to it.

    Attributes:
        adapter: with the base's names.
        weights: of the base.
        dtype: of all floats; None where each keeps its own.
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
    def checked(cls, adapter: Adapter, base: str | Path, dtype: str | None, access: BaseAccess) -> "FullPlan":
        """Open the base, and plan.

        Raises:
            BaseModelError: no such base, a quantised one, or one that the adapter does not fit.
            ConversionError: an update that the model has no place for.
        """
        if (file := access.gguf(base)) is not None:
            raise BaseModelError(
                f"base model {str(base)!r}: {file} holds codes, to which no ΔW can be added; give the folder of the "
                f"model as safetensors (--base), or write the adapter for llama.cpp (--to gguf)"
            )
        weights = BaseWeights.load(base)
        config = _plain_config(weights.folder)
        named = named_for_base(adapter, base, access=access)
        return cls.of(named, weights, config, None if dtype is None else torch_type(dtype))

    @classmethod
    def of(
        cls, named: NamedForBase, weights: BaseWeights, config: Mapping[str, Any], dtype: torch.dtype | None
    ) -> "FullPlan":
        """Plan for a base that is open.

        Raises:
            ConversionError: an update that the model has no place for.
        """
        adapter = named.adapter
        updates = _updates(adapter, weights)
        updates |= {f"{m}.bias": _Update((m,), bias=True) for m in adapter.modules if _moves_bias(adapter, m)}
        replaced = {name.replace(".base_layer.", "."): whole for name, whole in adapter.whole.items()}
        for name, whole in replaced.items():
            if named.parameters.get(name) != whole.shape:
                has = f"{named.parameters[name]} there" if name in named.parameters else "none of that name"
                raise ConversionError(
                    f"adapter {adapter.name!r}: whole weight {name!r} has shape {whole.shape}, the base {named.base!r} "
                    f"has {has}; a grown vocabulary or a new head makes another model: save that with PEFT "
                    f"(merge_and_unload, save_pretrained), or leave it out (--drop-modules-to-save)"
                )
        keys = {name: stored_key(name, named.shared, weights) for name in (*named.parameters, *updates)}
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
        add = self._adder(update, working)
        rows = max(1, _BLOCK // max(1, math.prod(whole.shape[1:])))
        with reading(whole.file, BaseModelError, "a weight", "download the model again"), _open(whole.file) as handle:
            view = handle.get_slice(whole.key)
            for start in range(0, whole.shape[0] if whole.shape else 1, rows):
                block = (view[start : start + rows] if whole.shape else handle.get_tensor(whole.key)).to(working)
                yield _rounded(name, block if add is None else add(block, start), target)

    def _adder(self, update: _Update | None, dtype: torch.dtype) -> Callable[[Tensor, int], Tensor] | None:
        """Adds the update to some rows of the tensor, from a row on."""
        if update is None:
            return None
        if update.stacked:

            def add_experts(block: Tensor, start: int) -> Tensor:
                some = update.modules[start : start + len(block)]
                return block + torch.stack([self.adapter.factors(m, dtype=dtype).stored_delta() for m in some])

            return add_experts
        left, right = self._factors(update, dtype)

        def add(block: Tensor, start: int) -> Tensor:
            more = left[start : start + len(block)]
            return block + more if right is None else block.addmm(more, right)

        return add

    def _factors(self, update: _Update, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """L and R of the update as the base stores it: L R, or L alone."""
        factors: LoraFactors = self.adapter.factors(update.modules[0], dtype=dtype)
        if update.bias:
            bias = factors.bias_delta()
            assert bias is not None
            return bias, None
        a = factors.a[:, : factors.d_in]
        if isinstance(factors.kind, Conv1DKind | EmbeddingKind):
            return a.T.contiguous(), factors.b.T.contiguous()
        if isinstance(factors.kind, LinearKind | RouterKind | ExpertKind):
            return factors.b[slice(*update.rows) if update.rows is not None else slice(None)], a
        return factors.stored_delta(), None


def _updates(adapter: Adapter, weights: BaseWeights) -> dict[str, _Update]:
    """Tensor → ΔW; of experts by the tensors that the base's files have for them."""
    updates: dict[str, _Update] = {}
    stacks: dict[str, ExpertKind] = {}
    for module in adapter.modules:
        kind = adapter.kind(module)
        if isinstance(kind, ExpertKind):
            stacks[parameter_of(module)] = kind
        else:
            name = kind.tensor_name(module)
            updates[(on_disk(name, weights) if kind.bare else None) or name] = _Update((module,))
    for parameter, kind in stacks.items():
        d_out, _ = adapter.shape(expert_module(parameter, kind.index))
        tensors = expert_tensors(parameter, kind.count, d_out, weights)
        for tensor in tensors:
            modules = tuple(expert_module(parameter, index) for index in tensor.experts)
            updates[tensor.name] = _Update(modules, rows=tensor.rows, stacked=tensor.stacked)
        if not tensors:  # refused as any other weight that the files lack
            updates[parameter] = _Update((parameter,))
    return updates


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
    if not all_finite(stored) and all_finite(block):
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
