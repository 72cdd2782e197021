"""The one record of a measured figure with its interval."""

import math
from dataclasses import dataclass, replace

from ..errors import DataError

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval.

    A figure that is not defined, such as the safety tax of a method that never gets safe, is None in place of a
    `Figure`, never a number that could enter a mean.

    Attributes:
        value: of the samples themselves. A percentile interval need not contain it.
        low: lower end; −∞ where the interval has none.
        high: upper end; ∞ where the interval has none.
        n: observations behind it: prompts for a rate, training seeds where each seed gives one figure.

    Example:
        >>> refusals = Figure(0.93, 0.86, 0.97, n=100)
        >>> refusals.high - refusals.low < 0.12
        True
        >>> Figure(0.98, 0.91, 1.04, n=5).within(0, 1)
        Figure(value=0.98, low=0.91, high=1, n=5)
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not self.low <= self.high or self.n < 1:
            raise DataError(
                f"{self!r}: expected a finite value, a lower end that is not above the upper one, and n ≥ 1; "
                "where a figure is not defined, use None"
            )

    def within(self, least: float, most: float) -> "Figure":
        """The same figure with an interval cut to what the figure can be.

        Student's interval of few seeds reaches beyond what a rate can be.
        """
        return replace(self, low=min(max(self.low, least), most), high=min(max(self.high, least), most))
