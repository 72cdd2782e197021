"""What a trial does, in whichever process: make a merge, measure it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import MergeError, SSTMergeError
from ..experiments.cells import Cell, canonical
from .arena import Arena, Opener
from .point import Point
from .shared import SharedMerges, refusal_of

__all__ = ["PROBE", "TRIAL", "ProbeWork", "TrialWork"]

TRIAL, PROBE = "trial", "probe"
"""Kinds of cells."""


@dataclass(frozen=True)
class TrialWork:
    """Merges and measures, with one arena a process.

    Attributes:
        opener: of the arena.
    """

    opener: Opener

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """One trial.

        Args:
            cell: its parameters are ``arena`` and ``point``.

        Returns:
            What was measured.

        Raises:
            MergeError: numbers that no factorisation takes, or memory that ran out: one merge of many, not the search.
            SSTMergeError: the merge cannot be made as asked.
        """
        arena, merges = _opened(self.opener, canonical(cell.parameters["arena"]))
        point: Mapping[str, Any] = cell.parameters["point"]
        try:
            return arena.measure(merges.update(Point("", **point))).to_dict()
        except SSTMergeError:
            raise
        except (RuntimeError, ValueError, ArithmeticError) as error:
            raise MergeError(f"it could not be made: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class ProbeWork:
    """Looks which merges can be made of what is given.

    Attributes:
        opener: of the arena.
    """

    opener: Opener

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """One look.

        Args:
            cell: its parameters are ``arena`` and ``points``, by label.

        Returns:
            ``refused``: label → why; the others can be made.
        """
        arena, _ = _opened(self.opener, canonical(cell.parameters["arena"]))
        points: Mapping[str, Mapping[str, Any]] = cell.parameters["points"]
        found = {label: refusal_of(arena.problem, Point(label, **of), arena.settings) for label, of in points.items()}
        return {"refused": {label: why for label, why in found.items() if why is not None}}


@lru_cache(maxsize=1)
def _opened(opener: Opener, parameters: str) -> tuple[Arena, SharedMerges]:
    import json

    arena = opener(json.loads(parameters))
    return arena, SharedMerges(arena.problem, arena.settings)
