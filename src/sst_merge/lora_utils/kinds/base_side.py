"""What a kind of adapter needs of its base: shapes of the layers, or their weights, one layer at a time."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data_loader import base_folder
from ...errors import AdapterError, BaseModelError
from ..base_index import BaseModelIndex
from ..base_weights import BaseWeights
from ..conversion import Conversion
from ..keys import how_to_leave_out
from ..layouts import Conv1DKind, LinearKind, ModuleShape
from ..open_base import given_base
from .table import Kind, Needs

__all__ = ["BaseSide"]


@dataclass(frozen=True)
class BaseSide:
    """A base model, opened but not read.

    Attributes:
        name: folder or hub id.
        index: its layers.
        weights: of its files; None where shapes are enough.
    """

    name: str
    index: BaseModelIndex
    weights: BaseWeights | None

    @classmethod
    def open(
        cls,
        where: object,
        kind: Kind,
        modules: Collection[str],
        *,
        needs: Needs,
        named: object,
        task_type: str | None,
        conversion: Conversion,
    ) -> "BaseSide":
        """Open the base that was given, or else the adapter's own where that is a folder here.

        Args:
            where: the adapter's file, for messages.
            kind: of the adapter.
            modules: that it touches.
            needs: ``shapes`` or ``weights``.
            named: base that its configuration names.
            task_type: that its configuration names.
            conversion: may give a base.

        Raises:
            AdapterError: there is none, or a module is no linear layer of it.
            BaseModelError: it cannot be read.
        """
        what = "the base model's weights, read layer by layer" if needs == "weights" else "the base's config.json"
        base = given_base(conversion, named, f"{where}: {kind.name} has no ΔW of its own; it takes {what}")
        access = conversion.access
        index = BaseModelIndex.load(base, modules=modules, task_type=task_type, access=access)
        wrong = [m for m in modules if m not in index.modules or not _is_linear(index.modules[m])]
        if wrong:
            shape = index.modules.get(wrong[0])
            what = f"{shape.kind.described}" if shape else index.others.get(wrong[0], "not there")
            raise AdapterError(
                f"{where}: module {wrong[0]!r} is {what} in the base {str(base)!r}, expected a linear layer, the only "
                f"one of which {kind.name} is read. {how_to_leave_out(wrong, list(modules))}"
            )
        weights = BaseWeights.load(base_folder(base, access)) if needs == "weights" else None
        return cls(str(base), index, weights)

    def shape(self, module: str) -> ModuleShape:
        """Kind and shape of a layer."""
        return self.index.modules[module]

    def values(self, module: str) -> tuple[Tensor, Tensor | None]:
        """A layer's weight, (d_out, d_in), and bias, in float64; zeros where only shapes are known.

        Raises:
            BaseModelError: the base's files hold no such weight, or of another shape.
        """
        shape = self.shape(module)
        if self.weights is None:
            bias = torch.zeros(shape.d_out, dtype=torch.float64) if shape.bias else None
            return torch.zeros(shape.d_out, shape.d_in, dtype=torch.float64), bias
        weight = self.weights.weight(module, kind=shape.kind, dtype=torch.float64)
        if weight.shape != (shape.d_out, shape.d_in):
            raise BaseModelError(
                f"{self.weights.folder}: the weight of module {module!r} is {tuple(weight.shape)} (d_out, d_in), its "
                f"config.json says {(shape.d_out, shape.d_in)}; download the model again"
            )
        return weight, self.weights.bias(module, dtype=torch.float64) if shape.bias else None


def _is_linear(shape: ModuleShape) -> bool:
    return isinstance(shape.kind, (LinearKind, Conv1DKind))
