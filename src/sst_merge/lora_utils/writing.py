"""Factors in memory → a PEFT folder that PEFT and vLLM read alike (design, section 6).

Modules arrive one at a time and their tensors go straight to disk; the safetensors header, which has to come first,
is written last and the data appended to it, so that memory holds one layer however large the adapter is.
"""

import json
import re
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import AdapterError
from ..files import atomic_folder
from .factors import LoraFactors
from .header import PREFIX, WEIGHTS_NAME, natural_key
from .layouts import ModuleKind
from .patterns import pattern_value
from .settings import CONFIG_NAME

__all__ = ["write_adapter", "write_adapter_files"]

_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def write_adapter(
    path: str | Path,
    modules: Iterable[tuple[str, LoraFactors]],
    *,
    base_model: str | None,
    task_type: str | None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a PEFT adapter folder, all or nothing; same modules in the same order give the same bytes.

    Every scale is in B and ``lora_alpha = r``; where ranks differ, ``rank_pattern`` has an equal ``alpha_pattern``,
    so that a reader that knows one scale (vLLM) and one that knows patterns (PEFT) see the same ΔW.

    Args:
        path: folder to make.
        modules: (canonical module name, factors), each module once; consumed one at a time.
        base_model: written as ``base_model_name_or_path``.
        task_type: PEFT's task type.
        dtype: float16, bfloat16, float32 or float64; the factors' own (then one for all modules) by default.
        force: replace an existing folder.
        extra_files: file name → text, written into the same folder.

    Returns:
        The folder.

    Raises:
        AdapterError: no modules, a module twice, values that are not finite or do not fit ``dtype``, types mixed, or
            a bias beside a kind of layer without (an embedding), which PEFT cannot hold in one adapter.
    """
    if reserved := {CONFIG_NAME, WEIGHTS_NAME} & extra_files.keys():
        raise AdapterError(f"{path}: extra file {sorted(reserved)} is written by the adapter itself; use another name")
    if bad := [name for name in extra_files if Path(name).name != name]:
        raise AdapterError(f"{path}: extra files {bad} are not plain file names; expected names without a folder")
    with atomic_folder(path, force=force) as folder:
        write_adapter_files(folder, modules, base_model=base_model, task_type=task_type, dtype=dtype)
        for name, text in extra_files.items():
            (folder / name).write_text(text, encoding="utf-8")
    return Path(path)


def write_adapter_files(
    folder: Path,
    modules: Iterable[tuple[str, LoraFactors]],
    *,
    base_model: str | None,
    task_type: str | None,
    dtype: torch.dtype | None = None,
) -> tuple[int, torch.dtype]:
    """Write the two files of a PEFT adapter into a folder that is there; see :func:`write_adapter`.

    Args:
        folder: one that its maker finishes or removes (:func:`~sst_merge.files.atomic_folder`).
        modules: (canonical module name, factors), each module once; consumed one at a time.
        base_model: written as ``base_model_name_or_path``.
        task_type: PEFT's task type.
        dtype: as in :func:`write_adapter`.

    Returns:
        r of the configuration, and the type of the tensors.
    """
    data = folder / ".data"
    with data.open("wb") as stream:
        writer = _TensorWriter(stream, dtype)
        layout = _write_modules(writer, modules)
    _assemble(folder / WEIGHTS_NAME, data, writer.header)
    config = _config(layout, base_model, task_type)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    assert writer.dtype is not None  # there is no adapter without tensors
    return layout.r, writer.dtype


@dataclass(frozen=True)
class _Layout:
    """What the configuration has to say: rank of every module, and the switches that hold for all."""

    ranks: dict[str, int]
    fan_in_fan_out: bool
    bias: bool

    @property
    def r(self) -> int:
        return max(self.ranks.values())


@dataclass
class _TensorWriter:
    """Appends tensors to a file and remembers where they are."""

    stream: BinaryIO
    dtype: torch.dtype | None
    header: dict[str, dict[str, object]] = field(default_factory=dict)
    offset: int = 0

    def write(self, key: str, tensor: Tensor) -> None:
        """Append one tensor under a key.

        Raises:
            AdapterError: the values are not finite, or do not fit the type.
        """
        self.dtype = self.dtype or tensor.dtype
        if self.dtype not in _TYPES:
            raise AdapterError(f"cannot write {key!r} as {self.dtype}; choose one of {', '.join(map(str, _TYPES))}")
        stored = _converted(key, tensor.detach(), self.dtype)
        raw = stored.reshape(-1).view(torch.uint8).numpy()
        self.stream.write(raw.data)
        end = self.offset + raw.nbytes
        self.header[key] = {
            "dtype": _TYPES[self.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self.offset, end],
        }
        self.offset = end


def _write_modules(writer: _TensorWriter, modules: Iterable[tuple[str, LoraFactors]]) -> _Layout:
    ranks: dict[str, int] = {}
    outputs: dict[str, int] = {}
    kinds: dict[str, ModuleKind] = {}
    biased: set[str] = set()
    requested = writer.dtype
    for module, factors in modules:
        if module in ranks:
            raise AdapterError(f"module {module!r} occurs twice; expected each module once")
        if requested is None and writer.dtype not in {None, factors.b.dtype}:
            raise AdapterError(
                f"module {module!r} has type {factors.b.dtype}, the modules before it {writer.dtype}; name one dtype "
                f"to write them all in"
            )
        a, b, bias = _parts(factors)
        form = factors.kind.form
        leaf = f".{form.leaf}" if form.leaf else ""
        for part, tensor in zip((form.a, form.b), factors.kind.to_file(a, b), strict=True):
            writer.write(f"{PREFIX}{module}.{part}{leaf}", tensor)
        if bias is not None:
            writer.write(_bias_key(module, factors.kind), bias)
            biased.add(module)
        ranks[module], outputs[module], kinds[module] = b.shape[1], b.shape[0], factors.kind
    if not ranks:
        raise AdapterError("no modules to write; expected the factors of at least one")
    unbiased = [module for module, kind in kinds.items() if not kind.can_have_bias]
    if biased and unbiased:
        found = f"module {unbiased[0]!r} is {kinds[unbiased[0]].described}"
        raise AdapterError(
            f"{found} and {min(biased)!r} has a LoRA bias: PEFT cannot "
            f"hold both in one adapter (lora_bias is one switch for all); leave one of them out of the merge"
        )
    if biased:
        # lora_bias is one switch for the whole adapter: the others need a bias too, of zeros.
        for module in [name for name in ranks if name not in biased]:
            writer.write(_bias_key(module, kinds[module]), torch.zeros(outputs[module]))
    return _Layout(ranks, any(kind.fan_in_fan_out for kind in kinds.values()), bool(biased))


def _bias_key(module: str, kind: ModuleKind) -> str:
    return f"{PREFIX}{module}.{kind.form.b}.bias"


def _parts(factors: LoraFactors) -> tuple[Tensor, Tensor, Tensor | None]:
    """A (r, d_in), B (d_out, r) and B's bias apart, without a direction that only the bias needs."""
    a, b, bias = factors.a[:, : factors.d_in], factors.b, factors.bias_delta()
    if bias is not None:
        # A bias that was read from a file is a rank direction of its own, whose row of A is zero once the constant
        # input is cut off; without it, reading and writing again would raise the rank each time.
        used = a.ne(0).any(dim=1)
        a, b = a[used], b[:, used]
    if a.shape[0] == 0:
        a, b = factors.a.new_zeros(1, factors.d_in), factors.b.new_zeros(factors.d_out, 1)
    return a, b, bias


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"tensor {key!r} holds NaN or Inf; expected finite values. Check the merge and its inputs")
    stored = tensor.to(device="cpu", dtype=dtype).contiguous()
    if stored.dtype == tensor.dtype:
        return stored
    if not bool(torch.isfinite(stored).all()):
        raise AdapterError(
            f"tensor {key!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} can hold "
            f"({torch.finfo(dtype).max:.3g}); write bfloat16 or float32 instead"
        )
    if bool(tensor.any()) and not bool(stored.any()):
        raise AdapterError(
            f"tensor {key!r} vanishes in {dtype}: its largest value is {float(tensor.abs().max()):.3g}; write "
            f"bfloat16 or float32 instead"
        )
    return stored


def _assemble(file: Path, data: Path, tensors: Mapping[str, Mapping[str, object]]) -> None:
    """Header first, then the data: eight bytes of length, JSON padded with spaces to a multiple of eight."""
    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(sorted(tensors.items()))}, separators=(",", ":"))
    encoded = header.encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream, data.open("rb") as source:
        stream.write(struct.pack("<Q", len(encoded)))
        stream.write(encoded)
        shutil.copyfileobj(source, stream, 1 << 20)
    data.unlink()


def _config(layout: _Layout, base_model: str | None, task_type: str | None) -> dict[str, object]:
    r = layout.r
    pattern = _rank_pattern(layout.ranks, r)
    return {
        "alpha_pattern": pattern,
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": layout.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": r,
        "lora_bias": layout.bias,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": pattern,
        "target_modules": sorted(layout.ranks, key=natural_key),
        "task_type": task_type,
        "use_dora": False,
        "use_rslora": False,
    }


def _rank_pattern(ranks: Mapping[str, int], r: int) -> dict[str, int]:
    """Exceptions from r: plain module names, or anchored ones where PEFT's suffix matching would confuse two."""
    names = sorted((module for module, rank in ranks.items() if rank != r), key=natural_key)
    plain = {module: ranks[module] for module in names}
    if all(int(pattern_value(plain, module, r)) == rank for module, rank in ranks.items()):
        return plain
    return {f"^{re.escape(module)}": ranks[module] for module in names}
