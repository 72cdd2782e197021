"""Suites by group: safety, utility, ... or all, of the real sets or of the lab."""

from collections.abc import Sequence
from typing import get_args

from ..errors import DataError
from ..worlds.lab.suites import is_lab_suite
from .catalogue import SUITES, Measure, Suite, get_suites

__all__ = ["GROUPS", "expand_suites"]

GROUPS: tuple[str, ...] = (*get_args(Measure), "all")


def expand_suites(
    names: Sequence[str], *, lab: bool = False, allow_code: bool = False
) -> tuple[list[Suite], list[str]]:
    """Suites and groups by name, each suite once, in the order of the table.

    A group stands for suites on real data, or, on a base of the lab, for the lab's (its skills together, not one by
    one). A group leaves out suites that run code unless that is allowed; a suite that is named itself stays.

    Args:
        names: of suites and groups.
        lab: whether the base is one of the lab's.
        allow_code: whether suites may run code.

    Returns:
        The suites, and names of those that a group left out.

    Raises:
        DataError: an unknown name.
    """
    unknown = [name for name in names if name not in SUITES and name not in GROUPS]
    if unknown:
        raise DataError(
            f"unknown suite {', '.join(map(repr, unknown))}; groups: {', '.join(GROUPS)}; suites: {', '.join(SUITES)}"
        )
    wanted = {name for name in names if name in SUITES}
    left_out = []
    for suite in SUITES.values():
        grouped = suite.measure in names or "all" in names
        single_skill = suite.name.startswith("lab_task_")
        if not grouped or is_lab_suite(suite.name) != lab or single_skill or suite.name in wanted:
            continue
        if suite.runs_code and not allow_code:
            left_out.append(suite.name)
        else:
            wanted.add(suite.name)
    return get_suites(tuple(name for name in SUITES if name in wanted)), left_out
