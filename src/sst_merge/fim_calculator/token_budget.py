"""A pass that meets a full memory goes on with half as many tokens at a time, and finds the same.

What a pass adds up are sums over samples, so that it makes no difference how these are cut into batches.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from ..errors import BaseModelError
from ..machine import memory_is_full

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TokenBudget"]


class _Samples(Protocol):
    """Samples that go through a model together: a batch, or what is made of batches."""

    def __len__(self) -> int: ...

    @property
    def width(self) -> int: ...

    def halves(self) -> "list[Self]": ...


Found = TypeVar("Found")
Samples = TypeVar("Samples", bound=_Samples)


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
        self, batch: Samples, work: Callable[[Samples], Found], forget: Callable[[], bool] = lambda: True
    ) -> Iterator[tuple[Samples, Found]]:
        """Work through a batch, whole or in parts of consecutive samples; what fails is done again in halves.

        Args:
            batch: of text, :class:`~sst_merge.data_loader.batch.Batch` or another set of samples with a ``width`` in
                tokens and ``halves()``.
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
            if self.tokens is not None and len(part) > 1 and len(part) * part.width > self.tokens:
                waiting[:0] = part.halves()
                continue
            try:
                found = work(part)
            except RuntimeError as error:
                if not memory_is_full(error) or not self._may_halve or not forget():
                    raise
                if len(part) == 1:
                    raise BaseModelError(
                        f"memory is full with a single sample of {part.width} tokens "
                        f"({str(error).splitlines()[0]}); lower max_length of the data, load the model in bfloat16, or "
                        f"spread it over several devices (device_map)"
                    ) from error
            else:
                yield part, found
                continue
            # Only here, where the error is gone, are the tensors free that its frames held.
            self._halve(part)
            waiting.insert(0, part)

    def _halve(self, part: _Samples) -> None:
        rows, length = len(part), part.width
        self.tokens = (rows + 1) // 2 * length
        warnings.warn(
            f"memory was full with {rows} samples of {length} tokens at a time; goes on with at most {self.tokens} "
            f"tokens, and the same result. A smaller batch_size or batch_tokens of the data spares the first try",
            stacklevel=2,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
