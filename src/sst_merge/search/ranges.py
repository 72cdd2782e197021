"""What one option may be: numbers between two ends, or one of several values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Choices", "Range", "Suggests"]

_LOG_FROM = 10.0
"""A range whose ends differ by this factor or more is searched on a logarithmic scale."""


class Suggests(Protocol):
    """What a sampler's trial offers; Optuna's has it."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: smallest.
        high: largest.
        whole: whether they are whole numbers.
    """

    low: float
    high: float
    whole: bool = False

    @property
    def log(self) -> bool:
        """Whether factors count rather than differences."""
        return not self.whole and self.low > 0 and self.high / self.low >= _LOG_FROM

    def suggest(self, trial: Suggests, name: str) -> Any:
        """A value by a sampler."""
        if self.low == self.high:
            return int(self.low) if self.whole else self.low
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        values: at least two; the first is what a warm start takes.
    """

    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        """A value by a sampler, which sees its position: values may be lists and sections."""
        return self.values[trial.suggest_categorical(name, range(len(self.values)))]

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)
