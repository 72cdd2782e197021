"""Statistics of one model at one point, gathered batch by batch."""

from collections.abc import Mapping
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..data_loader.devices import algebra_device
from ..errors import FisherError
from .capture import CoreModel
from .defaults import Estimator
from .likelihood import token_log_odds, token_logprobs
from .structures import LayerFisher, RunningSums
from .token_budget import TokenBudget

__all__ = ["Gathering"]


class Gathering:
    """Running sums of every module, and how many samples they run over.

    Args:
        core_model: the model with hooks in place, at the point.
        kind: structure of the statistics.
        spaces: of the modules that are looked at; others may hold the point alone.
        estimator: what is differentiated.
        generator: on the CPU; draws the labels of ``sampled``.
        budget: how much is read at a time, which several of these may share.

    Attributes:
        samples: so far.
    """

    def __init__(
        self,
        core_model: CoreModel,
        kind: type[LayerFisher],
        spaces: Mapping[str, CoreSpace],
        estimator: Estimator,
        generator: torch.Generator | None,
        budget: TokenBudget,
    ) -> None:
        self.samples = 0
        self._model, self._kind, self._estimator = core_model, kind, estimator
        self._draws = generator if estimator == "sampled" else None
        self._state: Tensor | None = None
        self._budget = budget
        self._sums: dict[str, RunningSums] = {
            name: kind.sums(space.shape, algebra_device(core_model.device_of(name))) for name, space in spaces.items()
        }

    def take(self, batch: Batch, index: int) -> None:
        """Add the statistics of a batch, in parts where memory does not hold it.

        Args:
            batch: of text with answers.
            index: its number, for messages.
        """
        for part, loss in self._budget.each(batch, self._differentiate, self._forget):
            _close(self._sums, part, index, loss)
            self.samples += len(part)

    def _differentiate(self, batch: Batch) -> float:
        if self._draws is not None:
            self._state = self._draws.get_state()
        with self._model.recording(self._collect):
            answers = self._model.answers(batch)
            score = token_log_odds if self._estimator == "log_odds" else partial(token_logprobs, generator=self._draws)
            loss = score(answers)[0].sum()
            self._model.backward(loss)
        return float(loss.detach())

    def _forget(self) -> bool:
        if self._draws is not None and self._state is not None:
            self._draws.set_state(self._state)
        forgotten = [sums.forget_batch() for sums in self._sums.values()]
        return all(forgotten)

    def skip(self, batch: Batch) -> None:
        """Go past a batch that is taken elsewhere: what is drawn for later ones stays the same.

        Args:
            batch: of which only the number of answer tokens matters.
        """
        if self._draws is not None:
            torch.rand(batch.answers, 1, generator=self._draws, dtype=torch.float64)

    def layers(self) -> dict[str, LayerFisher]:
        """The statistics of every module, on the CPU; the sums are given up one by one."""
        return {name: self._kind(samples=self.samples, **self._sums.pop(name).finish()) for name in list(self._sums)}

    def _collect(self, module: str, e: Tensor, z: Tensor) -> None:
        if module in self._sums:
            sums = self._sums[module]
            sums.add(e.to(sums.device), z.to(sums.device))


def _close(sums: Mapping[str, RunningSums], batch: Batch, index: int, loss: float) -> None:
    """End a batch, and refuse it where a statistic is not finite; one transfer to the CPU for all modules.

    Raises:
        FisherError: NaN or Inf in a gradient or in the log-likelihood.
    """
    tokens = batch.tokens
    sizes = [running.close_batch(len(batch), tokens) for running in sums.values()]
    finite = torch.stack([size.detach().to(sizes[0].device, torch.float64) for size in sizes]).isfinite().tolist()
    if not all(finite):
        bad = list(sums)[finite.index(False)]
        raise FisherError(f"module {bad}: gradients of batch {index} hold NaN or Inf (log-likelihood {loss:.6g})")
    if not isfinite(loss):
        raise FisherError(f"batch {index}: log-likelihood {loss}; check the model's precision and the labels")
