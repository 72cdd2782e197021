"""Refusals of harmful prompts against refusals of harmless ones, as the curve of a detector (ROC).

The convex hull of a sweep's points is compared, because what lies between two strengths can be had by answering some
prompts with one and some with the other (Provost & Fawcett 2001). It begins at a model that refuses nothing and ends at
one that refuses everything. The area below it is no figure here: where a sweep begins with much safety, its hull is a
straight line to the first point, and the area too small.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RocHull"]

_Rates = NDArray[np.float64]


@dataclass(frozen=True)
class RocHull:
    """The upper hulls of many curves, one a column.

    Attributes:
        harmless: over-refusals at the points of a curve and at its two ends, ascending; points × curves.
        refused: what the hull reaches there, the same shape.
    """

    harmless: _Rates
    refused: _Rates

    @classmethod
    def of(cls, refused: _Rates, harmless: _Rates) -> "RocHull":
        """The hulls of measured rates.

        Args:
            refused: rates on harmful prompts, points × curves.
            harmless: rates on harmless prompts, the same shape.

        Returns:
            The hulls.
        """
        ends = np.zeros((1, refused.shape[1]))
        x, y = (np.concatenate([ends, rates, ends + 1.0]) for rates in (harmless, refused))
        order = np.lexsort((y, x), axis=0)
        x, y = (np.take_along_axis(values, order, axis=0) for values in (x, y))
        hull = y.copy()
        for left, right in combinations(range(len(x)), 2):
            width = x[right] - x[left]
            for between in range(left + 1, right):
                share = np.divide(x[between] - x[left], width, out=np.ones_like(width), where=width > 0)
                hull[between] = np.maximum(hull[between], y[left] + share * (y[right] - y[left]))
        return cls(x, hull)

    def over_refusal(self, rate: float) -> _Rates:
        """The fewest harmless prompts that a hull refuses where it refuses a share of the harmful ones.

        Args:
            rate: of refusals of harmful prompts, above 0 and at most 1.

        Returns:
            One share per curve.

        Example:
            >>> import numpy as np
            >>> RocHull.of(np.array([[0.8]]), np.array([[0.2]])).over_refusal(0.9).round(2).tolist()
            [0.6]
        """
        found = np.ones(self.harmless.shape[1])
        for k in range(len(self.harmless) - 1):
            x, y = self.harmless[k : k + 2], self.refused[k : k + 2]
            rise = y[1] - y[0]
            share = np.clip(np.divide(rate - y[0], rise, out=np.zeros_like(rise), where=rise > 0), 0.0, 1.0)
            found = np.where(y[1] >= rate, np.minimum(found, x[0] + share * (x[1] - x[0])), found)
        return found
