"""A training that was stopped goes on where it was, and ends in the same bytes.

No random number is drawn after the start (no dropout, the order is planned), so that weights and the optimiser's sums
are the whole state.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..files import atomic_file

__all__ = ["Checkpoint", "TrainingState"]


@dataclass
class TrainingState:
    """How far a training is.

    Attributes:
        losses: of the steps that are done.
        seconds: that they took.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Checkpoint:
    """One file beside the output, named by everything that decides the result: another job never goes on from it.

    Attributes:
        path: of the file.
        every: seconds between two writes.
    """

    path: Path
    every: float
    _written: float = field(default_factory=time.monotonic, repr=False)

    @classmethod
    def of(cls, out: Path, job: Mapping[str, Any], *, every: float) -> "Checkpoint":
        """The checkpoint of a job.

        Args:
            out: folder that the job makes.
            job: all that decides its result, ready for JSON.
            every: seconds between two writes.
        """
        key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        return cls(out.with_name(f".{out.name}.{key}.checkpoint"), every)

    def load(self, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> TrainingState:
        """Put the stored state in place.

        Args:
            parameters: overwritten, in the order in which they were saved.
            optimiser: overwritten.

        Returns:
            How far the stored training was; a fresh state where there is none.
        """
        stored = processes.once("the checkpoint", self._stored)
        if stored is None:
            return TrainingState()
        with torch.no_grad():
            for parameter, value in zip(parameters, stored["parameters"], strict=True):
                parameter.copy_(value)
        optimiser.load_state_dict(stored["optimiser"])
        return TrainingState(stored["losses"], stored["seconds"])

    def save_when_due(
        self, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, state: TrainingState
    ) -> None:
        """Write the state if the last write is long enough ago.

        Args:
            parameters: trained weights.
            optimiser: its sums.
            state: how far the training is.
        """
        if not processes.is_first() or time.monotonic() - self._written < self.every:
            return
        content = {
            "parameters": [parameter.detach() for parameter in parameters],
            "optimiser": optimiser.state_dict(),
            "losses": state.losses,
            "seconds": state.seconds,
        }
        with atomic_file(self.path) as aside:
            torch.save(content, aside)
        self._written = time.monotonic()

    def _stored(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = None
        if self.path.exists():
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        return found

    def remove(self) -> None:
        """Forget the state; the job is done."""
        self.path.unlink(missing_ok=True)
