"""Suites by name or by group: safety, utility, ... or all, of real text or of a world; and the data sets they read."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

from ..discovery import discover
from ..errors import DataError
from ..texts import did_you_mean
from . import builtin
from .contract import Measure, Suite
from .custom import custom_suite
from .sets import EvalSet, SetSpec, Source, read_set

__all__ = [
    "ENTRY_POINT_GROUP",
    "GROUPS",
    "available_sets",
    "available_suites",
    "expand_suites",
    "get_suites",
    "load_set",
]

ENTRY_POINT_GROUP = "sst_merge.suites"
_MEASURES: tuple[Measure, ...] = get_args(Measure)
GROUPS: tuple[str, ...] = (*_MEASURES, "all")


@cache
def available_suites() -> Mapping[str, Suite]:
    """Every suite by name, in the order in which tables show them."""
    found = discover(Suite, rooms=[builtin], group=ENTRY_POINT_GROUP)
    real = [one for one in found.values() if one.world is None]
    real.sort(key=lambda one: (_MEASURES.index(one.measure), one.name))
    worlds = sorted((one for one in found.values() if one.world is not None), key=lambda one: str(one.world))
    return {one.name: one for one in (*real, *worlds)}


def get_suites(names: Sequence[str]) -> list[Suite]:
    """Suites by name.

    Raises:
        DataError: an unknown name.
    """
    suites = available_suites()
    unknown = [name for name in names if name not in suites]
    if unknown:
        raise DataError(f"unknown suite {_named(unknown, suites)}; available: {', '.join(suites)}")
    return [suites[name] for name in names]


def expand_suites(
    names: Sequence[str], *, world: str | None = None, allow_code: bool = False
) -> tuple[list[Suite], list[str]]:
    """Suites, groups and files of own questions, each suite once, in the order of the table, own questions last.

    A group stands for suites on real text, or, on a base of a world, for that world's. A group leaves out suites that
    run code unless that is allowed; a suite that is named itself stays.

    Args:
        names: of suites and groups, and files as :func:`.custom.custom_suite` takes them.
        world: the world that the base belongs to, such as ``lab``; None for bases that read real text.
        allow_code: whether suites may run code.

    Returns:
        The suites, and names of those that a group left out.

    Raises:
        DataError: an unknown name, or a file that is not what it should be.
    """
    suites = available_suites()
    files = [name for name in names if ".jsonl" in name]
    unknown = [name for name in names if name not in suites and name not in GROUPS and name not in files]
    if unknown:
        raise DataError(
            f"unknown suite {_named(unknown, [*suites, *GROUPS])}; groups: {', '.join(GROUPS)}; suites: "
            f"{', '.join(suites)}; "
            f"or a file of own questions (.jsonl)"
        )
    wanted = set(names)
    left_out = []
    for one in suites.values():
        grouped = (one.measure in names or "all" in names) and one.world == world and one.in_groups
        if grouped and one.runs_code and not allow_code and one.name not in names:
            left_out.append(one.name)
        elif grouped:
            wanted.add(one.name)
    chosen = [one for one in suites.values() if one.name in wanted]
    return [*chosen, *map(custom_suite, files)], left_out


def _named(unknown: Sequence[str], known: Collection[str]) -> str:
    return ", ".join(f"{name!r}{did_you_mean(name, known)}" for name in unknown)


def available_sets() -> Mapping[str, SetSpec]:
    """Every data set that some suite reads.

    Raises:
        DataError: two sets share a name.
    """
    found: dict[str, SetSpec] = {}
    for one in available_suites().values():
        for spec in one.sets:
            if found.setdefault(spec.name, spec) != spec:
                raise DataError(f"suite {one.name!r} reads another data set {spec.name!r} than other suites; rename it")
    return found


def load_set(name: str, root: Path | None = None, source: Source = "auto") -> EvalSet:
    """Read a data set by name.

    Args:
        name: one of :func:`available_sets`.
        root: the data folder; by default the one named by the environment variable ``SST_MERGE_DATA``.
        source: ``folder`` or ``hub``; ``auto`` takes the folder where it holds the set, else the hub.

    Returns:
        The set.

    Raises:
        DataError: no such set, or it cannot be read.
    """
    sets = available_sets()
    if name not in sets:
        raise DataError(f"unknown data set {name!r}{did_you_mean(name, sets)}; known: {', '.join(sets)}")
    return read_set(sets[name], root, source)
