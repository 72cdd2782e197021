"""Kinds of layer: one class each, which holds everything that is peculiar to it.

The rest of the package knows one form alone: ΔW = B·A of shape (d_out, d_in), inputs that are vectors, and a bias that
is one more input. What a base model, a PEFT file or a hook has instead is turned into that form here, and back.

A new kind is one class under :func:`layer_kind`; see docs/extending/layer.md.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "LINEAR",
    "Conv1DKind",
    "EmbeddingKind",
    "FileForm",
    "LinearKind",
    "ModuleKind",
    "ModuleShape",
    "is_packed",
    "layer_kind",
    "layer_kinds",
    "shape_of_layer",
    "stored_weight",
]

_CODES = ("qweight", "weight_packed")
"""Where layers of GPTQ, AWQ and compressed-tensors, which are no ``nn.Linear``, keep their weights."""
_PLAIN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


@dataclass(frozen=True)
class FileForm:
    """How PEFT names and shapes the two factors of a layer; layers of one form cannot be told apart by their factors.

    Attributes:
        a: part of A's key behind the module's name.
        b: the same of B's key.
        leaf: last part of both keys; empty where there is none.
        dimensions: of both tensors.
    """

    a: str = "lora_A"
    b: str = "lora_B"
    leaf: str = "weight"
    dimensions: int = 2


@dataclass(frozen=True)
class ModuleKind(ABC):
    """What one kind of layer does differently.

    An instance stands for one layer's kind: a kind with parameters (the kernel of a convolution) has them as fields,
    and two layers are of the same kind where they are equal.

    Attributes:
        name: as in figures and messages.
        described: the same with an article.
        form: how the factors lie in a PEFT file.
        fan_in_fan_out: PEFT's flag of that name as an adapter of such layers has it; None where it says nothing.
        can_have_bias: whether a LoRA can move a bias of the layer.
        reads_vectors: whether the inputs are vectors, which have second moments; otherwise they are row numbers.
        sees_tokens: whether its positions are those of the text; of others calibration data say nothing token by token.
        dimensions: of the weight as the base stores it.
        bare: whether it is a parameter that no layer owns (:mod:`.experts`); a running model cannot be looked at there.
    """

    name: ClassVar[str]
    described: ClassVar[str]
    form: ClassVar[FileForm] = FileForm()
    fan_in_fan_out: ClassVar[bool | None] = None
    can_have_bias: ClassVar[bool] = True
    reads_vectors: ClassVar[bool] = True
    sees_tokens: ClassVar[bool] = True
    dimensions: ClassVar[int] = 2
    bare: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name

    # The base model.

    @classmethod
    @abstractmethod
    def of_layer(cls, layer: nn.Module) -> "ModuleShape | None":
        """Kind and shape of a base model's layer, or None where it is of another kind."""

    @abstractmethod
    def matrix(self, stored: Tensor) -> Tensor:
        """A weight of the base as (d_out, d_in)."""

    @abstractmethod
    def stored(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`matrix`: a weight or an update in the form of the base."""

    def part(self, stored: Tensor) -> Tensor:
        """The part of a tensor of the base that is this layer's; all of it, but of a stack of layers."""
        return stored

    def tensor_name(self, module: str) -> str:
        """The parameter of the base that is updated."""
        return f"{module}.weight"

    def owner(self, module: str) -> str:
        """The module of the base that has the parameter."""
        return self.tensor_name(module).rpartition(".")[0]

    def fits(self, base: "ModuleKind") -> bool:
        """Whether factors of this kind may belong to a layer of the base of another kind."""
        return self.form == base.form and self.bare == base.bare

    def stored_shape(self, d_out: int, d_in: int) -> tuple[int, ...]:
        """Shape in which the base stores a weight."""
        return tuple(self.stored(torch.empty(d_out, d_in, device="meta")).shape)

    def matrix_shape(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """(d_out, d_in) of a weight of the base with ``dimensions`` dimensions."""
        d_out, d_in = self.matrix(torch.empty(stored, device="meta")).shape
        return d_out, d_in

    def weight_shape(self, layer: nn.Module) -> tuple[int, ...]:
        """Shape of a layer's weight, as :meth:`stored_shape` gives it."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return tuple(weight.shape)

    # A PEFT file.

    @classmethod
    def of_file(cls, a: tuple[int, ...], b: tuple[int, ...], *, fan_in_fan_out: bool) -> "ModuleKind | None":
        """The kind of factors that have this class's ``form``, or None where a file cannot say so.

        Args:
            a: shape of A in the file.
            b: shape of B in the file.
            fan_in_fan_out: the flag in the adapter's configuration; PEFT has one for all layers, so that the base
                model's layers decide where they are known.
        """
        same = len(a) == len(b) == cls.form.dimensions and cls.fan_in_fan_out in {None, fan_in_fan_out}
        return cls() if same else None

    def from_file(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """A (r, d_in) and B (d_out, r) from the tensors of a file, without copying."""
        return a, b

    def to_file(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`from_file`."""
        return a, b

    # The hooks of a running model.

    def rows(self, activations: Tensor) -> Tensor:
        """What goes into or comes out of the layer, as one vector per position: (…, d)."""
        return activations

    def unrows(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`rows`."""
        return rows

    def input_basis(self, layer: nn.Module, basis: Tensor) -> Tensor:
        """A basis V (d_in, q) of the inputs as the running layer applies it to them."""
        return basis

    def project(self, rows: Tensor, basis: Tensor) -> Tensor:
        """Vᵀx of every position, (…, q), in the type of the basis; rows (…, d_in)."""
        return rows.to(basis.dtype) @ basis


@dataclass(frozen=True)
class ModuleShape:
    """One layer of the base model that LoRA can adapt.

    Attributes:
        kind: of the layer.
        d_out: outputs (of an embedding: its dimension).
        d_in: inputs (of an embedding: the vocabulary).
        bias: whether it has a bias.
    """

    kind: ModuleKind
    d_out: int
    d_in: int
    bias: bool


_Kind = TypeVar("_Kind", bound=type[ModuleKind])
_kinds: list[type[ModuleKind]] = []


def layer_kind(kind: _Kind) -> _Kind:
    """Make a kind of layer known.

    Args:
        kind: a class that is asked before those that are known already, so that it may claim some of their layers.

    Returns:
        The class itself.

    Raises:
        ValueError: its name is taken.
    """
    if any(known.name == kind.name for known in _kinds):
        raise ValueError(f"{kind.__qualname__}: a kind of layer is called {kind.name!r} already; choose another name")
    _kinds.append(kind)
    return kind


def layer_kinds() -> tuple[type[ModuleKind], ...]:
    """All known kinds, in the order in which they are asked."""
    return tuple(reversed(_kinds))


def shape_of_layer(layer: nn.Module) -> ModuleShape | None:
    """Kind and shape of a base model's layer, or None where no kind knows it."""
    return next((shape for kind in layer_kinds() if (shape := kind.of_layer(layer)) is not None), None)


def stored_weight(layer: nn.Module) -> Tensor | None:
    """What a layer keeps its weight in: plain numbers, or codes of any shape and type; None where it has none."""
    for name in ("weight", *_CODES):
        found = getattr(layer, name, None)
        if isinstance(found, Tensor):
            return found
    return None


def is_packed(layer: nn.Module) -> bool:
    """Whether it is a linear layer that keeps codes in place of plain numbers of its shape."""
    weight = stored_weight(layer)
    if weight is None or not _is_linear(layer):
        return False
    sides: Any = layer
    return weight.dtype not in _PLAIN or tuple(weight.shape) != (sides.out_features, sides.in_features)


def _is_linear(layer: nn.Module) -> bool:
    """Whether it computes y = W x + b, whatever it keeps W in."""
    if isinstance(layer, nn.Linear):
        return True
    sides = (getattr(layer, name, None) for name in ("in_features", "out_features"))
    return all(isinstance(side, int) for side in sides) and any(hasattr(layer, name) for name in _CODES)


@layer_kind
@dataclass(frozen=True)
class LinearKind(ModuleKind):
    """``nn.Linear``: y = W x + b with W (d_out, d_in); also where a quantised layer keeps codes in its place."""

    name = "linear"
    described = "a linear layer"
    fan_in_fan_out = False

    @classmethod
    def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
        """See :meth:`ModuleKind.of_layer`."""
        if not _is_linear(layer):
            return None
        sides: Any = layer
        return ModuleShape(cls(), sides.out_features, sides.in_features, getattr(layer, "bias", None) is not None)

    def matrix(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.matrix`."""
        return stored

    def stored(self, matrix: Tensor) -> Tensor:
        """See :meth:`ModuleKind.stored`."""
        return matrix

    def weight_shape(self, layer: nn.Module) -> tuple[int, ...]:
        """See :meth:`ModuleKind.weight_shape`; quantised weights are packed into other shapes than the layer's."""
        if _is_linear(layer):
            sides: Any = layer
            return sides.out_features, sides.in_features
        return super().weight_shape(layer)


LINEAR = LinearKind()


class _Transposed(ModuleKind):
    """Whose weight is stored as (d_in, d_out)."""

    def matrix(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.matrix`."""
        return stored.T

    def stored(self, matrix: Tensor) -> Tensor:
        """See :meth:`ModuleKind.stored`."""
        return matrix.T


@layer_kind
@dataclass(frozen=True)
class Conv1DKind(_Transposed):
    """GPT-2's ``Conv1D``: a linear layer whose weight is stored as (d_in, d_out), PEFT's ``fan_in_fan_out``."""

    name = "conv1d"
    described = "a Conv1D"
    fan_in_fan_out = True

    @classmethod
    def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
        """See :meth:`ModuleKind.of_layer`."""
        from transformers.pytorch_utils import Conv1D

        if not isinstance(layer, Conv1D):
            return None
        d_in, d_out = layer.weight.shape
        return ModuleShape(cls(), d_out, d_in, layer.bias is not None)


@layer_kind
@dataclass(frozen=True)
class EmbeddingKind(_Transposed):
    """``nn.Embedding``: the inputs are numbers of rows, d_in is the vocabulary, and there is no bias."""

    name = "embedding"
    described = "an embedding"
    form = FileForm("lora_embedding_A", "lora_embedding_B", leaf="")
    can_have_bias = False
    reads_vectors = False

    @classmethod
    def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
        """See :meth:`ModuleKind.of_layer`."""
        if not isinstance(layer, nn.Embedding):
            return None
        return ModuleShape(cls(), layer.embedding_dim, layer.num_embeddings, bias=False)

    def input_basis(self, layer: nn.Module, basis: Tensor) -> Tensor:
        """See :meth:`ModuleKind.input_basis`."""
        # Some models (Gemma) multiply the row that was looked up, and with it the row's update, by a constant.
        return basis * float(getattr(layer, "embed_scale", 1.0))

    def project(self, rows: Tensor, basis: Tensor) -> Tensor:
        """See :meth:`ModuleKind.project`: a row of V is what a one-hot input selects."""
        return basis[rows]
