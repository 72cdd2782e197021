"""Convolutions: a kernel over c channels is a matrix (d_out, c·k), and so is its LoRA.

PEFT's A is a convolution of the same kernel into r channels, its B one of a single point: together ΔW = B·A of the
flattened kernels, whatever stride and padding are. Convolutions in groups are not of this form.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor, nn

from .layouts import FileForm, ModuleKind, ModuleShape, layer_kind

__all__ = ["Conv1dLayerKind", "Conv2dLayerKind", "Conv3dLayerKind"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class _Convolution(ModuleKind):
    """A convolution over positions of some dimensions; ``over`` says of how many in the line of a class.

    They are classes, not values of one field, because names and forms of file are asked of the classes that are known.

    Attributes:
        kernel: its size in each of them.
        layer: PyTorch's class.
    """

    kernel: tuple[int, ...]
    layer: ClassVar[type[nn.Module]]
    sees_tokens = False

    def __init_subclass__(cls, *, over: int | None = None) -> None:
        super().__init_subclass__()
        if over is None:
            return  # a kind that somebody derives from one of these
        cls.layer = _LAYERS[over - 1]
        cls.name, cls.described = f"convolution {over}d", f"a convolution (nn.{cls.layer.__name__})"
        cls.dimensions = over + 2
        cls.form = FileForm(dimensions=cls.dimensions)

    def __str__(self) -> str:
        return f"{self.name} {' × '.join(map(str, self.kernel))}"

    @classmethod
    def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
        """See :meth:`ModuleKind.of_layer`."""
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or not isinstance(layer, cls.layer):
            return None
        if layer.groups != 1:
            return None
        kernel = tuple(layer.kernel_size)
        return ModuleShape(cls(kernel), layer.out_channels, layer.in_channels * prod(kernel), layer.bias is not None)

    @classmethod
    def of_file(cls, a: tuple[int, ...], b: tuple[int, ...], *, fan_in_fan_out: bool) -> "ModuleKind | None":
        """See :meth:`ModuleKind.of_file`."""
        matches = len(a) == len(b) == cls.form.dimensions and a[0] == b[1] and set(b[2:]) == {1}
        return cls(tuple(a[2:])) if matches else None

    def fits(self, base: ModuleKind) -> bool:
        """See :meth:`ModuleKind.fits`; the matrix of another kernel would be folded up otherwise."""
        return self == base if isinstance(base, _Convolution) else super().fits(base)

    def matrix(self, stored: Tensor) -> Tensor:
        """See :meth:`ModuleKind.matrix`."""
        return stored.flatten(1)

    def stored(self, matrix: Tensor) -> Tensor:
        """See :meth:`ModuleKind.stored`."""
        return matrix.reshape(matrix.shape[0], -1, *self.kernel)

    def from_file(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModuleKind.from_file`."""
        return a.flatten(1), b.flatten(1)

    def to_file(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModuleKind.to_file`."""
        return a.reshape(a.shape[0], -1, *self.kernel), b.reshape(*b.shape, *(1 for _ in self.kernel))


@layer_kind
@dataclass(frozen=True)
class Conv1dLayerKind(_Convolution, over=1):
    """``nn.Conv1d``, such as Whisper's first layers; GPT-2's ``Conv1D`` is something else."""


@layer_kind
@dataclass(frozen=True)
class Conv2dLayerKind(_Convolution, over=2):
    """``nn.Conv2d``, such as the patch embedding of CLIP."""


@layer_kind
@dataclass(frozen=True)
class Conv3dLayerKind(_Convolution, over=3):
    """``nn.Conv3d``, such as the patch embedding of Qwen-VL, over frames."""
