"""Inputs of ``studies/merging/measure.py``: random LoRA adapters of two Llama shapes, and a base model on disk."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from sst_merge.lora_utils import LoraFactors, write_adapter

__all__ = ["module_shapes", "write_adapters", "write_base"]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def module_shapes(hidden: int, inner: int, layers: int) -> dict[str, tuple[int, int]]:
    """All linear layers of a Llama without grouped queries: module name → (d_out, d_in).

    Args:
        hidden: hidden size.
        inner: intermediate size.
        layers: how many.

    Returns:
        Seven modules a layer.
    """
    shapes = {}
    for layer in range(layers):
        for name in _ATTENTION:
            shapes[f"model.layers.{layer}.self_attn.{name}"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"model.layers.{layer}.mlp.{name}"] = (inner, hidden)
        shapes[f"model.layers.{layer}.mlp.down_proj"] = (hidden, inner)
    return shapes


def write_adapters(
    folder: Path, shapes: dict[str, tuple[int, int]], *, count: int, rank: int, base: str, dtype: torch.dtype
) -> None:
    """Adapters ``adapter00``, … with normally distributed factors: the flattest spectra there are.

    Args:
        folder: where.
        shapes: module name → (d_out, d_in).
        count: how many.
        rank: of each.
        base: base model that they name.
        dtype: type on disk.
    """

    def modules(seed: int) -> Iterator[tuple[str, LoraFactors]]:
        generator = torch.Generator().manual_seed(seed)
        for name, (d_out, d_in) in shapes.items():
            b = torch.randn(d_out, rank, generator=generator) * 0.01
            yield name, LoraFactors(b, torch.randn(rank, d_in, generator=generator) * 0.01)

    for index in range(count):
        write_adapter(
            folder / f"adapter{index:02d}", modules(index), base_model=base, task_type="CAUSAL_LM", dtype=dtype
        )


def write_base(folder: Path, *, hidden: int, inner: int, layers: int) -> None:
    """A random Llama with a vocabulary of 64, as transformers saves it.

    Args:
        folder: where.
        hidden: hidden size.
        inner: intermediate size.
        layers: how many.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=16,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    # In a process of its own, so that a benchmark's parent stays small.
    target, *sizes = sys.argv[1:]
    wanted = dict(zip(("hidden", "inner", "layers"), map(int, sizes), strict=True))
    write_base(Path(target), **wanted)
