"""Which suites there are: each is one lm-evaluation-harness task of this package, and what its scores stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError
from .lab_suites import lab_suites

__all__ = ["SUITES", "Measure", "Suite", "get_suites", "tasks_folder"]

Measure = Literal["safety", "over_refusal", "utility", "drift"]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One evaluation suite.

    Attributes:
        name: as written on the command line; also the name of its task file in :func:`tasks_folder`.
        measure: which column of the summary it feeds.
        summary: one line.
        sets: names of the data sets it reads.
        judged: whether its responses go to the judges; otherwise its task scores them itself.
        score: the column of its records that its rate is the mean of: ``refusal`` where judged, ``correct`` elsewhere.
        breakdown: tag that its results are broken down by, or None.
        runs_code: whether it runs what models write, and so must be asked for.
    """

    name: str
    measure: Measure
    summary: str
    sets: tuple[str, ...]
    judged: bool = True
    score: str = "refusal"
    breakdown: str | None = None
    runs_code: bool = False


# Filled below, one line a suite, in the order in which tables show them.
_ALL: tuple[Suite, ...] = (*lab_suites(Suite),)

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _ALL}


def tasks_folder() -> Path:
    """Where the task files lie.

    Returns:
        The folder to give to lm-evaluation-harness as ``include_path``.
    """
    return Path(__file__).parent / "tasks"


def get_suites(names: tuple[str, ...]) -> list[Suite]:
    """Suites by name.

    Args:
        names: as written on the command line.

    Returns:
        The suites, in the order given.

    Raises:
        DataError: an unknown name.
    """
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise DataError(f"unknown suite {', '.join(map(repr, unknown))}; available: {', '.join(SUITES)}")
    return [SUITES[name] for name in names]
