"""How llama.cpp calls and orders what a base holds: names by the package gguf's own map, rows as its converter does.

Read in llama.cpp's ``conversion/`` of autumn 2026. Architectures whose converter splits, joins or reorders weights in
other ways than the ones below are not in the table, so that they are refused and not written wrongly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..data_loader import PLAIN, BaseAccess, read_base_config
from ..data_loader.gguf_base import gguf_path, open_gguf
from ..errors import BaseModelError, ConversionError
from ..reading import reading

__all__ = ["GgufBase", "gguf_package", "rotary_rows"]

# Model type of transformers → (llama.cpp's architecture, whether rows of q and k are in the order of rotary halves).
_ARCHITECTURES: Mapping[str, tuple[str, bool]] = {
    "gemma": ("gemma", False),
    "gemma2": ("gemma2", False),
    "gemma3_text": ("gemma3", False),
    "gpt2": ("gpt2", False),
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "phi": ("phi2", False),
    "phi3": ("phi3", False),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}
_BY_GGUF = dict(_ARCHITECTURES.values())
_EMBEDDING = "token_embd.weight"
_INSTALL = "pip install 'sst-merge[gguf]'"


@dataclass(frozen=True)
class GgufBase:
    """What has to be known of a base to name and order its tensors as llama.cpp does.

    Attributes:
        name: folder, hub id or file.
        architecture: llama.cpp's.
        blocks: number of layers.
        heads: of the queries.
        kv_heads: of the keys.
        tied: whether the output layer is the embedding.
        shapes: name → (rows, columns) of the tensors of a GGUF file; None where the base was given as a folder or id.
    """

    name: str
    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    tied: bool
    shapes: Mapping[str, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, base: str | Path, *, access: BaseAccess = PLAIN) -> "GgufBase":
        """Read a base's configuration, or the header of a GGUF file.

        Args:
            base: folder, hub id, or a GGUF file of either.
            access: what may be read of a folder or id; may name the file.

        Raises:
            BaseModelError: it cannot be read.
            ConversionError: an architecture that is not in the table, or the package gguf is missing.
        """
        gguf_package()
        file = gguf_path(base, access)
        return _of_config(str(base), access) if file is None else _of_file(file, access.label(base))

    @property
    def rotary(self) -> bool:
        """Whether rows of q and k have another order than in transformers."""
        return _BY_GGUF[self.architecture]

    def tensor_name(self, module: str) -> str:
        """llama.cpp's name of a module's weight.

        Args:
            module: name in transformers' model with its language-model head.

        Raises:
            ConversionError: llama.cpp has no such tensor, or applies no LoRA to it.
        """
        found = _names(self.architecture, self.blocks).get_name(f"{module}.weight", try_suffixes=(".weight",))
        if found is None:
            raise ConversionError(
                f"module {module!r} has no name in llama.cpp's architecture {self.architecture!r} "
                f"({self.blocks} layers); leave it out (--leave-out {module.rpartition('.')[2]}), or write a whole "
                f"model (--to full)"
            )
        if self.tied and found in {_EMBEDDING, "output.weight"}:
            raise ConversionError(
                f"module {module!r}: input and output embeddings of {self.name!r} are one tensor in llama.cpp, which "
                f"cannot give them different updates; leave it out, or write a whole model (--to full)"
            )
        return str(found)


def gguf_package() -> Any:
    """The package gguf.

    Raises:
        ConversionError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ConversionError(
            f"GGUF is written by the package gguf, which is not installed; run: {_INSTALL}"
        ) from error
    return gguf


def rotary_rows(b: Tensor, heads: int) -> Tensor:
    """Rows of B (d_out, r) of a q or k layer in llama.cpp's order: pairs, where transformers has halves.

    A head of 2h rows (x₀ … x_{h−1}, y₀ … y_{h−1}) becomes (x₀, y₀, x₁, y₁, …), as ``LlamaModel.permute`` does to
    the weight itself; rows of B and of ΔW = B·A are the same ones.
    """
    return b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


@lru_cache(maxsize=4)
def _names(architecture: str, blocks: int) -> Any:
    """The package's map from all names that trainers use."""
    gguf = gguf_package()
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(numbers[architecture], blocks)


def _of_config(base: str, access: BaseAccess) -> GgufBase:
    config = read_base_config(base, access)
    known = _ARCHITECTURES.get(config.model_type)
    if known is None:
        raise ConversionError(_unknown(base, config.model_type, _ARCHITECTURES))
    heads = int(config.num_attention_heads)
    return GgufBase(
        name=base,
        architecture=known[0],
        blocks=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        tied=bool(config.tie_word_embeddings),
    )


def _of_file(file: Path, name: str) -> GgufBase:
    reader = open_gguf(file)
    with reading(file, BaseModelError, "a GGUF file of a model", "name the GGUF file of the base (--base)"):
        values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
        architecture = str(values["general.architecture"])
        if architecture not in _BY_GGUF:
            raise ConversionError(_unknown(str(file), architecture, _BY_GGUF))
        heads = int(values[f"{architecture}.attention.head_count"])
        return GgufBase(
            name=name,
            architecture=architecture,
            blocks=int(values[f"{architecture}.block_count"]),
            heads=heads,
            kv_heads=int(values.get(f"{architecture}.attention.head_count_kv", heads)),
            tied="output.weight" not in shapes,
            shapes=MappingProxyType(shapes),
        )


def _unknown(base: str, found: str, known: Mapping[str, Any]) -> str:
    return (
        f"base {base!r} is a {found!r} model, whose layout in GGUF is not known here; known are "
        f"{', '.join(sorted(known))}. Write a whole model (--to full) and convert that with llama.cpp's own script"
    )
