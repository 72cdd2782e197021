"""LoRA of bare parameters (PEFT's ``target_parameters``): fused experts of a mixture, and their routers.

Transformers keeps all experts of a layer as one parameter W (E, d_out, d_in), or (E, d_in, d_out) where the module says
``is_transposed`` (gpt-oss). PEFT gives it one pair of factors (``ParamWrapper`` in ``tuners/lora/layer.py``): A (E·r,
d_in) with the r rows of one expert behind those of another, and B (d_out, r·E) with the E columns of one direction side
by side. So ΔW_e = s · B[:, e::E] · A[e·r : (e+1)·r], and every expert is a module of its own here, of rank r, called
``<path of the parameter>.<number>``: methods, ranks and figures are expert by expert. A router is a matrix (E, d_in).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .layouts import ModuleKind, ModuleShape

__all__ = ["DECLARED", "ExpertKind", "RouterKind", "bare_parameters", "expert_module", "joined_experts", "parameter_of"]

DECLARED = ("gate_up_proj", "down_proj")
"""Parameters of fused experts in the order in which every module of transformers declares them: PEFT wraps the first
one first, so that it is the innermost."""


@dataclass(frozen=True)
class _Bare(ModuleKind):
    """A parameter that no layer of a known kind owns."""

    can_have_bias: ClassVar[bool] = False
    bare: ClassVar[bool] = True

    @classmethod
    def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
        """None: parameters are looked for by :func:`bare_parameters`."""
        return None

    def matrix(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.matrix`."""
        return stored

    def stored(self, matrix: Tensor) -> Tensor:
        """See :meth:`ModuleKind.stored`."""
        return matrix


@dataclass(frozen=True)
class RouterKind(_Bare):
    """A parameter ``weight`` (d_out, d_in), such as a router's."""

    name = "router"
    described = "a router"


@dataclass(frozen=True)
class ExpertKind(_Bare):
    """One expert of a stack.

    Attributes:
        index: its number, from 0.
        count: E, of all experts.
        transposed: whether the base stores them as (E, d_in, d_out); an adapter's file does not say.
    """

    index: int
    count: int
    transposed: bool = False

    name = "expert"
    described = "one of several fused experts"
    dimensions: ClassVar[int] = 3

    def __str__(self) -> str:
        return f"expert {self.index} of {self.count}"

    def fits(self, base: ModuleKind) -> bool:
        """See :meth:`ModuleKind.fits`."""
        return isinstance(base, ExpertKind) and (base.index, base.count) == (self.index, self.count)

    def tensor_name(self, module: str) -> str:
        """See :meth:`ModuleKind.tensor_name`."""
        return parameter_of(module)

    def part(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.part`."""
        return stored[self.index]

    def matrix(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.matrix`; of this expert's part."""
        return stored.T if self.transposed else stored

    def stored(self, matrix: Tensor) -> Tensor:
        """See :meth:`ModuleKind.stored`; of this expert's part."""
        return matrix.T if self.transposed else matrix

    def matrix_shape(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """See :meth:`ModuleKind.matrix_shape`; of all experts."""
        return super().matrix_shape(stored[1:])

    def from_file(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModuleKind.from_file`; of all experts' factors."""
        rank = a.shape[0] // self.count
        return a[self.index * rank : (self.index + 1) * rank], b[:, self.index :: self.count]


def expert_module(parameter: str, index: int) -> str:
    """The name of one expert as a module."""
    return f"{parameter}.{index}"


def parameter_of(module: str) -> str:
    """The path of the parameter that an expert is a part of."""
    return module.rpartition(".")[0]


def joined_experts(factors: Mapping[int, tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """All experts' factors as PEFT stores them, before the dimensions of expert and rank become one.

    Args:
        factors: number of an expert → A (r_e, d_in) and B (d_out, r_e); those that are missing have ΔW = 0.
        count: E.

    Returns:
        A (E, r, d_in) and B (d_out, r, E) with r the largest rank, the rest zeros.
    """
    rank = max(a.shape[0] for a, _ in factors.values())
    some_a, some_b = next(iter(factors.values()))
    joined_a = some_a.new_zeros(count, rank, some_a.shape[1])
    joined_b = some_b.new_zeros(some_b.shape[0], rank, count)
    for index, (a, b) in factors.items():
        joined_a[index, : a.shape[0]], joined_b[:, : b.shape[1], index] = a, b
    return joined_a, joined_b


def bare_parameters(path: str, module: nn.Module) -> dict[str, ModuleShape]:
    """What ``target_parameters`` could adapt of a module of no known kind.

    Args:
        path: its name in the model.
        module: of the base model.

    Returns:
        Names as adapters have them → kind and shape: one for every expert of every stack, or the module itself for a
        router.
    """
    found: dict[str, ModuleShape] = {}
    if isinstance(module, nn.modules.conv._ConvNd):
        return found
    for name, parameter in module.named_parameters(recurse=False):
        shape = tuple(parameter.shape)
        if len(shape) == 3:
            transposed = bool(getattr(module, "is_transposed", False))
            d_out, d_in = (shape[2], shape[1]) if transposed else (shape[1], shape[2])
            for index in range(shape[0]):
                kind = ExpertKind(index, shape[0], transposed)
                found[expert_module(f"{path}.{name}", index)] = ModuleShape(kind, d_out, d_in, bias=False)
        elif len(shape) == 2 and name == "weight":
            found[path] = ModuleShape(RouterKind(), shape[0], shape[1], bias=False)
    return found
