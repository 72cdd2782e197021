"""How long a world's work takes, as far as can be told before any of it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .world import Artefact

__all__ = ["Costs", "TellsCosts"]


@dataclass(frozen=True)
class Costs:
    """Seconds of one worker, one thread on a CPU; right within a factor of a few.

    Attributes:
        cell: what comes before the first prompt: a base is loaded.
        prompt: to ask a model one prompt, the mean over kinds.
        learning: to go through one calibration prompt, forward and back.
        batch: calibration prompts that a step of training takes.
        training: base or adapter → to make it.
    """

    cell: float
    prompt: float
    learning: float
    batch: int
    training: Callable[[Artefact], float]


@runtime_checkable
class TellsCosts(Protocol):
    """What a world may have beside :class:`~.world.World`: times for ``sst-merge experiment --dry-run``."""

    def costs(self) -> Costs | None:
        """What its work takes on this machine; no model is loaded.

        Returns:
            The seconds, or None where they cannot be told yet, as of a base that is not on this machine.
        """
