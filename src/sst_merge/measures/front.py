"""The safety–utility front: which points no other point beats, and how much area they cover."""

import math
from collections.abc import Sequence

from ..errors import DataError

__all__ = ["hypervolume", "pareto_mask"]

Pair = tuple[float, float]


def pareto_mask(points: Sequence[Pair]) -> list[bool]:
    """Which points are Pareto-efficient, both coordinates maximised.

    A point is beaten by another that is at least as good in both coordinates and better in one; equal points do not
    beat each other.

    Args:
        points: (safety, utility) pairs.

    Returns:
        One truth value per point, in the order given.

    Raises:
        DataError: a coordinate is not finite.
    """
    _check(points)
    return [not any(other[0] >= s and other[1] >= u and tuple(other) != (s, u) for other in points) for s, u in points]


def hypervolume(points: Sequence[Pair]) -> float:
    """Area that the points dominate above the reference (0, 0), both coordinates maximised (Zitzler & Thiele 1998).

    The union of the rectangles [0, s] × [0, u], exact. At most 1 where both are shares. A point with a coordinate of
    0 or less adds nothing. In two dimensions this is one pass over the sorted points; moocore, which does any
    dimension, stays the tests' oracle, so that measuring a sweep needs core dependencies only.

    Args:
        points: (safety, utility) pairs.

    Returns:
        The area; 0 without points.

    Raises:
        DataError: a coordinate is not finite.
    """
    _check(points)
    area, reached = 0.0, 0.0
    for s, u in sorted(points, reverse=True):
        if s > 0 and u > reached:
            area += s * (u - reached)
            reached = u
    return area


def _check(points: Sequence[Pair]) -> None:
    for number, point in enumerate(points):
        if not all(math.isfinite(value) for value in point):
            raise DataError(f"point {number} is {tuple(point)}; safety and utility must be finite")
