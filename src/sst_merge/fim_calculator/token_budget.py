"""A pass that meets a full memory goes on with half as many tokens at a time, and finds the same.

What a pass adds up are sums over samples, so that it makes no difference how these are cut into batches.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from ..data_loader.batch import Batch
from ..errors import BaseModelError
from ..machine import memory_is_full

__all__ = ["TokenBudget"]

Found = TypeVar("Found")


class TokenBudget:
    """How many tokens, padding included, a pass reads at a time: whole batches until memory was full once.

    Args:
        halves: whether a full memory is met with halves at all. Where other processes compute parts of the same layers
            they wait for this one in the whole batch, and the error stands.

    Attributes:
        tokens: the limit; None before.
    """

    def __init__(self, *, halves: bool = True) -> None:
        self.tokens: int | None = None
        self._may_halve = halves

    def each(
        self, batch: Batch, work: Callable[[Batch], Found], forget: Callable[[], bool] = lambda: True
    ) -> Iterator[tuple[Batch, Found]]:
        """Work through a batch, whole or in parts of consecutive samples; what fails is done again in halves.

        Args:
            batch: of text.
            work: called with the batch or with a part of it.
            forget: undoes what `work` has done before memory was full; False where it cannot, and the error stands.

        Yields:
            Every part with what was found, in the order of the samples.

        Raises:
            BaseModelError: a single sample is too much.
            RuntimeError: what `work` raises beside a full memory, or where `forget` cannot undo it.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop(0)
            if self.tokens is not None and len(part) > 1 and part.input_ids.numel() > self.tokens:
                waiting[:0] = _halves(part)
                continue
            try:
                found = work(part)
            except RuntimeError as error:
                if not memory_is_full(error) or not self._may_halve or not forget():
                    raise
                if len(part) == 1:
                    raise BaseModelError(
                        f"memory is full with a single sample of {part.input_ids.shape[1]} tokens "
                        f"({str(error).splitlines()[0]}); lower max_length of the data, load the model in bfloat16, or "
                        f"spread it over several devices (device_map)"
                    ) from error
            else:
                yield part, found
                continue
            # Only here, where the error is gone, are the tensors free that its frames held.
            self._halve(part)
            waiting.insert(0, part)

    def _halve(self, part: Batch) -> None:
        rows, length = part.input_ids.shape
        self.tokens = (rows + 1) // 2 * length
        warnings.warn(
            f"memory was full with {rows} samples of {length} tokens at a time; goes on with at most {self.tokens} "
            f"tokens, and the same result. A smaller batch_size or batch_tokens of the data spares the first try",
            stacklevel=2,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _halves(batch: Batch) -> list[Batch]:
    """Both halves of the samples, without columns at the end that only the other half's samples reach."""
    middle = (len(batch) + 1) // 2
    return [_ending_with_its_longest(batch.rows(part)) for part in (slice(middle), slice(middle, None))]


def _ending_with_its_longest(batch: Batch) -> Batch:
    end = int(batch.attention_mask.any(0).nonzero()[-1]) + 1
    return Batch(batch.input_ids[:, :end], batch.attention_mask[:, :end], batch.labels[:, :end])
