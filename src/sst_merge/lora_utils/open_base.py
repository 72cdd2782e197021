"""The base of an adapter whose ΔW depends on its weights: opened once, read one layer at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data_loader import base_folder
from ..errors import AdapterError
from .base_index import BaseModelIndex
from .base_names import exists_here
from .base_weights import BaseWeights
from .conversion import Conversion
from .layouts import ModuleKind

__all__ = ["OpenBase", "given_base"]


def given_base(conversion: Conversion, named: object, where: str) -> str | Path:
    """The base that was given, or else the adapter's own where that is a folder here.

    Args:
        conversion: may name it.
        named: what the adapter names.
        where: the adapter's file and what of it needs the base, for the message.

    Raises:
        AdapterError: there is neither.
    """
    if conversion.base is not None:
        return conversion.base
    if isinstance(named, str) and named and exists_here(named):
        return named
    found = f"names the base {named!r}, which is no folder here" if named else "names no base"
    raise AdapterError(
        f"{where}; the adapter {found}. Name the base it was trained on, a folder or hub id: --base-model "
        f"(--base; conversion=Conversion(base=...) in Python). For commands that take none for it, write it as "
        f"a plain LoRA first: sst-merge export ADAPTER --base BASE --to peft -o OUT"
    )


@dataclass(frozen=True)
class OpenBase:
    """A base whose weights are read one layer at a time.

    Attributes:
        name: as the user, or the adapter, wrote it.
        weights: of its files.
        index: its layers, which say how each weight is stored.
    """

    name: str
    weights: BaseWeights
    index: BaseModelIndex

    @classmethod
    def of(
        cls, conversion: Conversion, named: str | None, where: str, modules: Collection[str], *, task_type: str | None
    ) -> "OpenBase":
        """Open the base of an adapter.

        Args:
            conversion: may name it.
            named: what the adapter names.
            where: the adapter's file and what of it needs the base, for the message.
            modules: that are read; they decide as which class the base is built.
            task_type: that the adapter names; its class is tried first.

        Raises:
            AdapterError: no base is given, and the adapter names none that is a folder here.
            BaseModelError: it cannot be read.
        """
        base = given_base(conversion, named, where)
        folder = base_folder(base, conversion.access)
        index = BaseModelIndex.load(base, modules=modules, task_type=task_type, access=conversion.access)
        return cls(str(base), BaseWeights.load(folder), index)

    def kind(self, module: str, otherwise: ModuleKind) -> ModuleKind:
        """How the base stores a module; what the adapter says where its names are not the base's."""
        shape = self.index.modules.get(module)
        return otherwise if shape is None else shape.kind

    def weight(self, module: str, shape: tuple[int, int], kind: ModuleKind, *, dtype: torch.dtype) -> Tensor:
        """W (d_out, d_in) of a module.

        Args:
            module: canonical name.
            shape: that the adapter expects.
            kind: of the layer.
            dtype: to return.

        Raises:
            BaseModelError: no such weight, or a quantised one.
            AdapterError: one of another shape.
        """
        found = self.weights.shape(module, kind=kind)
        if found != shape:
            raise AdapterError(
                f"module {module!r} is {shape} (d_out, d_in) in the adapter, its weight in the base {self.name!r} is "
                f"{found}; name the base that the adapter was trained on (--base-model)"
            )
        return self.weights.weight(module, kind=kind, dtype=dtype)
