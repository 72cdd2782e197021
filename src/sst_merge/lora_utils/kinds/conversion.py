"""What may be done to read an adapter that is no plain LoRA, and what was done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data_loader import PLAIN, BaseAccess
from ...errors import AdapterError
from ...texts import counted
from .lowering import Lowered

__all__ = ["PLAIN_ONLY", "Conversion", "Converted", "convert_record"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How an adapter of another kind is read.

    Attributes:
        base: folder or hub id of the base model, for kinds that hold no ΔW of their own; by default the one that the
            adapter names, where that is a folder here.
        access: what may be read of the base.
        initial: folder or hub name of the weights that the adapter began with (PiSSA, OLoRA, CorDA, LoftQ); by default
            one that lies beside it.
        allow_pickle: read ``adapter_model.bin``, as tensors alone.
        largest_rank: of a module of the plain LoRA; ΔW of a higher rank is cut to it.
        lost_energy: largest share of ‖ΔW‖² that the cut may lose in any module.

    Raises:
        AdapterError: a rank below 1, or a share that is none.
    """

    base: str | Path | None = None
    access: BaseAccess = PLAIN
    initial: str | Path | None = None
    allow_pickle: bool = False
    largest_rank: int = 256
    lost_energy: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.largest_rank, bool) or self.largest_rank < 1:
            raise AdapterError(f"largest_rank is {self.largest_rank!r}, expected a whole number of at least 1")
        if not 0 <= self.lost_energy <= 1:
            raise AdapterError(f"lost_energy is {self.lost_energy!r}, expected a share from 0 to 1")


PLAIN_ONLY = Conversion()
"""What needs neither a flag nor a file beside the adapter."""


@dataclass(frozen=True)
class Converted:
    """What an adapter was before it was read.

    Attributes:
        kind: PEFT's name of it (``LOHA``), or the initialisation that moved the base (``pissa``).
        modules: how many it has.
        rank: largest rank of a module as plain LoRA.
        lost_energy: share of ‖ΔW‖² of all modules that the cut to ``largest_rank`` lost; 0 where nothing was cut.
        worst: the largest such share of a module.
        worst_module: its name; None where nothing was cut.
        base: whose weights or shapes were read, or None.
        initial: where the initial weights lie, or None.
    """

    kind: str
    modules: int
    rank: int
    lost_energy: float = 0.0
    worst: float = 0.0
    worst_module: str | None = None
    base: str | None = None
    initial: str | None = None

    @property
    def note(self) -> str:
        """The same as a sentence."""
        what = f"was {self.kind} and is read as a plain LoRA, {counted(self.modules, 'module')} of rank {self.rank}"
        if self.initial is not None:
            return f"{what}: the difference to its initial weights in {self.initial}"
        if self.worst_module is None:
            return f"{what}: exact"
        return (
            f"{what}: {self.lost_energy:.2g} of the energy of ΔW is lost by the cut, most in module "
            f"{self.worst_module!r}: {self.worst:.2g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        found = {"kind": self.kind, "modules": self.modules, "rank": self.rank, "lost_energy": self.lost_energy}
        more = {"worst_module": self.worst_module, "worst": self.worst} if self.worst_module is not None else {}
        more |= {"base": self.base} if self.base is not None else {}
        return found | more | ({"initial": self.initial} if self.initial is not None else {})


def convert_record(
    file: Path, kind: str, cuts: Sequence[tuple[str, Lowered]], conversion: Conversion, *, base: str | None
) -> Converted:
    """Sum up what was cut.

    Args:
        file: for messages.
        kind: of the adapter.
        cuts: module and its update, without the factors or with them.
        conversion: has the limit.
        base: whose weights or shapes were read.

    Raises:
        AdapterError: a module loses more than the limit.
    """
    shares = {module: cut.lost / cut.energy if cut.energy else 0.0 for module, cut in cuts}
    module, worst = max(shares.items(), key=lambda item: item[1])
    if worst > conversion.lost_energy:
        needed = next(cut.exact_rank for name, cut in cuts if name == module)
        over = sum(share > conversion.lost_energy for share in shares.values())
        raise AdapterError(
            f"{file}: {kind} has no low rank here: module {module!r} has rank {needed}, and cut to rank "
            f"{conversion.largest_rank} it loses {worst:.2%} of the energy of its ΔW, expected at most "
            f"{conversion.lost_energy:.2%} ({over} of {counted(len(shares), 'module')} lose more). Allow a higher rank "
            f"(largest_rank, --largest-rank {needed} is exact) or a larger loss (lost_energy, --lost-energy)"
        )
    energy = sum(cut.energy for _, cut in cuts)
    return Converted(
        kind=kind,
        modules=len(cuts),
        rank=max(cut.rank for _, cut in cuts),
        lost_energy=sum(cut.lost for _, cut in cuts) / energy if energy else 0.0,
        worst=worst,
        worst_module=module if worst > 0 else None,
        base=base,
    )
