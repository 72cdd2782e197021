"""Updates that are no B·A by themselves: how far they may be approximated, and what that cost.

Whatever an adapter stores, ΔW of one layer at a time is formed (with the base's weights where it depends on them),
brought to the nearest B·A and written aside, so that memory holds one layer and the rest of the package reads a plain
LoRA.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data_loader import PLAIN, BaseAccess
from ..errors import AdapterError
from ..texts import counted
from ..threads import one_thread
from .entries import ModuleEntry, ModuleLayout
from .layouts import ModuleKind
from .nearest import Nearest, nearest
from .sources import FileSource
from .tensor_file import TensorFile

__all__ = [
    "Conversion",
    "Converted",
    "ConvertedModule",
    "ConvertedSource",
    "FormedUpdate",
    "check_loss",
    "convert_aside",
]


@dataclass(frozen=True)
class Conversion:
    """How adapters that are no LoRA are turned into one.

    Attributes:
        base: folder or hub id of the base model, for kinds whose ΔW depends on its weights; the adapter's own where
            that is a folder here.
        rank: of every module; by default the fewest directions that stay within ``most_lost``.
        most_lost: largest share of a module's ‖ΔW‖²_F that may be left out, from 0 to 1; more is refused.
        access: what may be read of the base.
        initial: folder or hub name of the weights that training began with, for initialisations that moved the base
            (PiSSA, OLoRA, CorDA, LoftQ); by default one that lies beside the adapter.
        allow_pickle: read ``adapter_model.bin`` where there is nothing else, as tensors alone.

    Raises:
        AdapterError: a rank below 1, or a share outside of 0 to 1.
    """

    base: str | Path | None = None
    rank: int | None = None
    most_lost: float = 0.01
    access: BaseAccess = PLAIN
    initial: str | Path | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        if (self.rank is not None and self.rank < 1) or not 0.0 <= self.most_lost <= 1.0:
            raise AdapterError(
                f"conversion to LoRA: rank {self.rank}, most_lost {self.most_lost}; expected a rank of at least 1 "
                f"(--convert-rank) and a share from 0 to 1 (--convert-lost)"
            )


@dataclass(frozen=True)
class ConvertedModule:
    """What one module became.

    Attributes:
        rank: that was kept.
        energy: ‖ΔW‖²_F.
        lost: share of it that the rank leaves out, from 0 to 1.
    """

    rank: int
    energy: float
    lost: float


@dataclass(frozen=True)
class Converted:
    """What a conversion did to an adapter.

    Attributes:
        kind: what the adapter was, such as ``DoRA``.
        base: name of the base whose weights were read, or None.
        modules: module → its figures.
    """

    kind: str
    base: str | None
    modules: Mapping[str, ConvertedModule]

    @property
    def lost(self) -> float:
        """Share of all modules' energy that is left out."""
        energy = sum(module.energy for module in self.modules.values())
        return sum(module.energy * module.lost for module in self.modules.values()) / energy if energy > 0.0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        worst = max(self.modules, key=lambda module: self.modules[module].lost)
        return {
            "kind": self.kind,
            "base": None if self.base is None else _recorded(self.base),
            "largest_rank": max(module.rank for module in self.modules.values()),
            "lost": self.lost,
            "most_lost": {"module": worst, "lost": self.modules[worst].lost},
        }

    def sentence(self) -> str:
        """The same for the user."""
        found = self.to_dict()
        against = "" if self.base is None else f", by the weights of {found['base']!r}"
        count, worst = counted(len(self.modules), "module"), found["most_lost"]["lost"]
        return (
            f"{self.kind}, read as a LoRA of rank {found['largest_rank']} at most ({count}{against}): {self.lost:.2g} "
            f"of ‖ΔW‖² is left out, at most {worst:.2g} of a module's"
        )


def _recorded(base: str) -> str:
    """A base as a report may hold it: of an absolute path, which says where it lay on one machine, the last name."""
    return Path(base).name if Path(base).is_absolute() else base


@dataclass(frozen=True)
class FormedUpdate:
    """One module's ΔW while it is converted.

    Attributes:
        module: canonical name.
        delta: ΔW (d_out, d_in).
        kind: of the layer.
        rank: of ΔW's greater part, where that is known; so many directions are kept anyway.
    """

    module: str
    delta: Tensor
    kind: ModuleKind
    rank: int = 1


@dataclass(frozen=True)
class ConvertedSource(FileSource):
    """A file of plain factors that lasts as long as this object.

    Attributes:
        figures: module → what it became.
        folder: of the file.
    """

    figures: Mapping[str, ConvertedModule]
    folder: "tempfile.TemporaryDirectory[str]"

    def __reduce__(self) -> tuple[type[FileSource], tuple[Path, Mapping[str, ModuleEntry]]]:
        """For another process, which reads the file and must not remove it."""
        return FileSource, (self.file, self.entries)


def convert_aside(updates: Iterator[FormedUpdate], conversion: Conversion, *, where: str, kind: str) -> ConvertedSource:
    """Bring one ΔW after another to the nearest B·A, and keep the factors in a file of their own.

    Factors alone, where other kinds get a whole folder (:mod:`.kinds.aside`): the folder of a DoRA is that of a LoRA in
    all else, so whole weights, messages and the stored form that ``inspect`` shows stay those of the user's files.

    Args:
        updates: formed one at a time, all of one type.
        conversion: rank and limit.
        where: the adapter's file, for messages.
        kind: what the adapter is, such as ``DoRA``.

    Raises:
        AdapterError: a module that the rank does not hold within the limit, or a ΔW that is not finite.
    """
    folder = tempfile.TemporaryDirectory(prefix="sst-merge-", ignore_cleanup_errors=True)
    file = Path(folder.name) / "factors.safetensors"
    data = file.with_suffix(".data")
    entries: dict[str, ModuleEntry] = {}
    figures: dict[str, ConvertedModule] = {}
    with data.open("wb") as stream, one_thread():
        tensors = TensorFile(stream, None)
        for update in updates:
            module, found = update.module, _nearest(update, conversion, where, kind)
            figures[module] = ConvertedModule(found.b.shape[1], found.energy, found.lost)
            d_out, d_in = update.delta.shape
            layout = ModuleLayout(d_out, d_in, found.b.shape[1], update.kind, bias=False)
            entries[module] = ModuleEntry(f"{module}.a", f"{module}.b", None, 1.0, layout)
            for key, tensor in zip(entries[module].keys, update.kind.to_file(found.a, found.b), strict=True):
                tensors.write(key, tensor)
    tensors.finish(file, data, rank=None)
    return ConvertedSource(file, entries, figures, folder)


def _nearest(update: FormedUpdate, conversion: Conversion, where: str, kind: str) -> Nearest:
    if not bool(torch.isfinite(update.delta).all()):
        raise AdapterError(
            f"{where}: ΔW of module {update.module!r} is not finite with the weights of this base (a row of zeros in "
            f"it, or values beyond the type); name the base that the adapter was trained on (--base-model)"
        )
    found = nearest(update.delta, rank=conversion.rank, most_lost=conversion.most_lost, least=update.rank)
    check_loss(found, conversion, where=where, module=update.module, kind=kind)
    return found


def check_loss(found: Nearest, conversion: Conversion, *, where: object, module: str, kind: str) -> None:
    """Refuse a rank that was asked for where it loses too much.

    Args:
        found: a module's factors.
        conversion: rank and limit.
        where: the adapter's file, for the message.
        module: its name.
        kind: what the adapter is, such as ``DoRA``.

    Raises:
        AdapterError: more is lost than the limit.
    """
    # Without a rank, and below it, all directions are there that the limit asks for and rounding leaves.
    if conversion.rank is None or found.b.shape[1] < conversion.rank or found.lost <= conversion.most_lost:
        return
    raise AdapterError(
        f"{where}: of module {module!r}, a {kind}, a LoRA of rank {conversion.rank} leaves out {found.lost:.3g} of "
        f"‖ΔW‖², more than {conversion.most_lost:g}. Give a larger rank (--convert-rank; without one as many "
        f"directions are kept as it takes), or allow more (--convert-lost)"
    )
