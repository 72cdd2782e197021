"""A LoRA as llama.cpp loads it (``--lora``): one GGUF file, tensor by tensor, no ΔW formed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from ..files import atomic_file
from ..lora_utils import Adapter, all_finite
from .gguf_names import GgufBase, gguf_package, rotary_rows
from .serve_rank import ModuleCut, at_rank

__all__ = ["WrittenGguf", "check_gguf", "write_gguf"]

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class WrittenGguf:
    """What was written.

    Attributes:
        rank: of all modules.
        names: module → llama.cpp's name of the tensor that it updates.
        cuts: module → what its rank cost.
    """

    rank: int
    names: dict[str, str]
    cuts: dict[str, ModuleCut]


def write_gguf(
    path: str | Path,
    adapter: Adapter,
    base: GgufBase,
    *,
    dtype: torch.dtype = torch.float32,
    rank: int | None = None,
) -> WrittenGguf:
    """Write a GGUF file whose updates are the adapter's ΔW, in llama.cpp's names and order of rows.

    llama.cpp multiplies every B·A by alpha / r with one alpha for the file. So every module gets one rank, by rows of
    zeros, and alpha is that rank.

    Args:
        path: file to write; an existing one is replaced when the new one is complete.
        adapter: with names of transformers' model with its head.
        base: what it will be loaded onto.
        dtype: float32 (exact for most adapters), float16 or bfloat16.
        rank: of all modules; the largest one of the adapter by default.

    Raises:
        ConversionError: something that llama.cpp cannot hold (LoRA biases, whole weights, layers without a name there),
            another base, or values that do not fit the type.
    """
    gguf = gguf_package()
    if dtype not in _TYPES:
        raise ConversionError(f"dtype: {dtype} is not written to GGUF; choose {', '.join(map(str, _TYPES))}")
    names = check_gguf(adapter, base)
    largest = max(adapter.rank(module) for module in adapter.modules) if rank is None else rank
    cuts: dict[str, ModuleCut] = {}
    with atomic_file(path) as aside:
        writer = gguf.GGUFWriter(aside, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(largest))
        writer.add_name(adapter.name)
        kind = gguf.GGMLQuantizationType[_TYPES[dtype]]
        for module, name in names.items():
            d_out, d_in = adapter.shape(module)
            # llama.cpp looks rows of the embedding's A up, so that A lies there transposed.
            a_shape = (largest, d_in) if adapter.kind(module).reads_vectors else (d_in, largest)
            for end, shape in (("lora_a", a_shape), ("lora_b", (d_out, largest))):
                like = _array(torch.empty(0, dtype=dtype))
                size = dtype.itemsize * shape[0] * shape[1]
                writer.add_tensor_info(f"{name}.{end}", shape, like.dtype, size, raw_dtype=kind)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for module, tensor in _tensors(adapter, base, names, largest, cuts):
                writer.write_tensor_data(_array(_stored(tensor, dtype, module)))
        finally:
            writer.close()
    return WrittenGguf(largest, names, cuts)


def check_gguf(adapter: Adapter, base: GgufBase) -> dict[str, str]:
    """Whether a LoRA in GGUF can hold an adapter; no value is read.

    Args:
        adapter: as of :func:`write_gguf`.
        base: as of :func:`write_gguf`.

    Returns:
        Module → llama.cpp's name of its weight.

    Raises:
        ConversionError: it cannot.
    """
    _refuse(adapter)
    names = {module: base.tensor_name(module) for module in adapter.modules}
    _check_shapes(adapter, base, names)
    return names


def _tensors(
    adapter: Adapter, base: GgufBase, names: dict[str, str], rank: int, cuts: dict[str, ModuleCut]
) -> Iterator[tuple[str, Tensor]]:
    """A and B of every module in the order of ``names``."""
    for module in names:
        factors, cuts[module] = at_rank(adapter.factors(module), rank)
        b, leaf = factors.b, module.rpartition(".")[2]
        if base.rotary and leaf in {"q_proj", "k_proj"}:
            b = rotary_rows(b, base.heads if leaf == "q_proj" else base.kv_heads)
        yield module, factors.a if factors.kind.reads_vectors else factors.a.T
        yield module, b


def _refuse(adapter: Adapter) -> None:
    """What a LoRA in GGUF has no place for.

    Raises:
        ConversionError: with the module or tensor.
    """
    if adapter.whole:
        raise ConversionError(
            f"adapter {adapter.name!r} holds whole weights ({next(iter(adapter.whole))}), for which a LoRA in GGUF has "
            f"no place; write a whole model (--to full), or leave them out (--drop-modules-to-save)"
        )
    biased = next((module for module in adapter.modules if adapter.has_bias(module)), None)
    if biased is not None:
        raise ConversionError(
            f"adapter {adapter.name!r}: module {biased!r} has a LoRA bias, for which a LoRA in GGUF has no place; "
            f"write a whole model (--to full)"
        )


def _check_shapes(adapter: Adapter, base: GgufBase, names: dict[str, str]) -> None:
    """Compare with the tensors of a GGUF base, where there is one.

    Raises:
        ConversionError: a tensor that is not there or has another shape.
    """
    for module, name in names.items() if base.shapes is not None else ():
        found = base.shapes.get(name) if base.shapes is not None else None
        expected = adapter.shape(module) if adapter.kind(module).reads_vectors else adapter.shape(module)[::-1]
        if found != expected:
            has = f"has shape {found}" if found else "does not exist"
            raise ConversionError(
                f"{base.name}: tensor {name!r} {has}, module {module!r} of adapter {adapter.name!r} needs {expected}; "
                f"the adapter was trained on another base"
            )


def _stored(tensor: Tensor, dtype: torch.dtype, module: str) -> Tensor:
    stored = tensor.to(dtype).contiguous()
    if not all_finite(stored):
        raise ConversionError(
            f"module {module!r} reaches {float(tensor.abs().max()):.3g}, which {dtype} cannot hold; choose float32 or "
            f"bfloat16 (--dtype)"
        )
    return stored


def _array(tensor: Tensor) -> Any:
    """As NumPy, which has no bfloat16."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
