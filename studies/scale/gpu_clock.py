"""Time, memory and what is left of both: what every stage of ``studies/scale/gpu.py`` looks at."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Card", "Clock"]


@dataclass
class Clock:
    """How much of the time is left, and what was not done.

    Attributes:
        end: on :func:`time.perf_counter`.
        left_out: what did not fit, or failed, and why.
    """

    end: float
    left_out: list[str] = field(default_factory=list)

    def fits(self, what: str, seconds: float) -> bool:
        """Whether a stage may begin; one that may not is said."""
        left = self.end - time.perf_counter()
        if left < seconds:
            self.leave_out(f"{what}: needs about {seconds:.0f} s, and {max(left, 0.0):.0f} s are left")
        return left >= seconds

    def leave_out(self, sentence: str) -> None:
        """Note what is missing."""
        self.left_out.append(sentence)
        print(f"left out: {sentence}", file=sys.stderr, flush=True)

    def stage(self, what: str, needed: float, work: Callable[[], object]) -> None:
        """Carry a stage out if it fits; its failure, of memory above all, ends it alone."""
        if not self.fits(what, needed):
            return
        print(what, file=sys.stderr, flush=True)
        try:
            work()
        except Exception as error:
            self.leave_out(f"{what}: failed, {type(error).__name__}: {' '.join(str(error).split())[:300]}")


@dataclass
class Card:
    """Where everything runs.

    Attributes:
        device: of torch.
        rounds: of what is repeated.
    """

    device: str
    rounds: int

    @property
    def is_one(self) -> bool:
        """Whether it is a card at all."""
        return self.device != "cpu"

    @property
    def name(self) -> str:
        """Of the card."""
        return torch.cuda.get_device_name() if self.is_one else "no card, the CPU"

    def allocated(self) -> float | None:
        """GiB that torch holds; None on a CPU."""
        return torch.cuda.memory_allocated() / 2**30 if self.is_one else None

    def seconds(self, task: Callable[[], object]) -> float:
        """Of the wall's clock, with the card waited for."""
        if self.is_one:
            torch.cuda.synchronize()
        start = time.perf_counter()
        task()
        if self.is_one:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def measured(self, task: Callable[[], object], *, rounds: int | None = None) -> dict[str, Any]:
        """A first run, of which the peak of memory is taken, and seconds of some rounds (of the first one without any).

        Args:
            task: is called without arguments.
            rounds: how many; :attr:`rounds` by default.

        Returns:
            ``first`` and ``seconds``; ``peak_gib``, and ``extra_gib`` above what stood before, None on a CPU.
        """
        if self.is_one:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = self.allocated()
        first = self.seconds(task)
        peak = None if before is None else torch.cuda.max_memory_allocated() / 2**30
        runs = [self.seconds(task) for _ in range(self.rounds if rounds is None else rounds)]
        extra = None if before is None or peak is None else peak - before
        return {"first": first, "seconds": runs or [first], "peak_gib": peak, "extra_gib": extra}
