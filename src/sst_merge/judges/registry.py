"""Judges by name: the files of this room, and entry points of other packages."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache

from ..discovery import discover
from ..errors import DataError
from ..texts import did_you_mean
from .contract import Judge, JudgeKind, JudgeSettings

__all__ = ["DEFAULT_JUDGES", "ENTRY_POINT_GROUP", "available_judges", "check_judges", "make_judges"]

ENTRY_POINT_GROUP = "sst_merge.judges"
DEFAULT_JUDGES = ("rules", "incoherence")
"""None of harm: the one that needs no download is hardly better than chance on answers of another kind than its own."""


@cache
def available_judges() -> Mapping[str, JudgeKind]:
    """Every judge by name, the built-in ones first."""
    return discover(JudgeKind, rooms=[sys.modules[__package__]], group=ENTRY_POINT_GROUP)


def check_judges(names: Sequence[str]) -> None:
    """Refuse names that no judge has; nothing is loaded.

    Raises:
        DataError: an unknown name.
    """
    kinds = available_judges()
    unknown = [name for name in names if name not in kinds]
    if unknown:
        told = ", ".join(f"{name!r}{did_you_mean(name, kinds)}" for name in unknown)
        raise DataError(f"unknown judge {told}; available: {', '.join(kinds)}")


def make_judges(
    names: Sequence[str] = DEFAULT_JUDGES,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    batch_size: int = 8,
    models: Mapping[str, str] | None = None,
) -> list[Judge]:
    """Judges by name; nothing is loaded before the first verdict is asked for.

    Args:
        names: of :func:`available_judges`. Some make several judges, such as WildGuard one of refusal and one of harm,
            which share one model.
        device: for judges that are neural networks.
        dtype: of their weights.
        batch_size: pairs that they read at a time.
        models: name → other id or folder of its model.

    Returns:
        The judges, in the order given.

    Raises:
        DataError: an unknown name, or one given twice.
    """
    models, kinds = models or {}, available_judges()
    check_judges([*names, *models])
    if len(set(names)) < len(names):
        raise DataError(f"a judge is named twice: {', '.join(names)}; available: {', '.join(kinds)}")
    return [
        judge
        for name in names
        for judge in kinds[name].make(
            JudgeSettings(model=models.get(name), device=device, dtype=dtype, batch_size=batch_size)
        )
    ]
