"""The safety–utility front: which points no other point beats, whose they are, and how much area they cover."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["hypervolume", "hypervolumes", "pareto_mask", "pareto_share"]

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
    _check(points, "pareto_mask")
    return [not any(other[0] >= s and other[1] >= u and tuple(other) != (s, u) for other in points) for s, u in points]


def pareto_share(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Share of each method's points that no point of any method beats.

    Args:
        curves: method → (safety, utility) points, both maximised.

    Returns:
        Method → share between 0 and 1. Equal points of two methods count for both.

    Raises:
        DataError: a method without points.
    """
    empty = [name for name, points in curves.items() if not points]
    if empty:
        raise DataError(f"pareto_share: no points of {', '.join(empty)}; expected at least one measured point each")
    owners = [name for name, points in curves.items() for _ in points]
    kept = pareto_mask([point for points in curves.values() for point in points])
    return {
        name: sum(k for k, owner in zip(kept, owners, strict=True) if owner == name) / len(points)
        for name, points in curves.items()
    }


def hypervolume(points: Sequence[Pair]) -> float:
    """Area that the points dominate above the reference (0, 0), both coordinates maximised (Zitzler & Thiele 1998).

    The union of the rectangles [0, s] × [0, u], exact. At most 1 where both are shares. A point with a coordinate of
    0 or less adds nothing.

    Args:
        points: (safety, utility) pairs.

    Returns:
        The area; 0 without points.

    Raises:
        DataError: a coordinate is not finite.

    Example:
        >>> hypervolume([(1.0, 0.5), (0.5, 1.0), (0.4, 0.4)])
        0.75
    """
    _check(points, "hypervolume")
    safety, utility = np.array(points, dtype=np.float64).reshape(-1, 2).T[:, :, None]
    return float(hypervolumes(safety, utility)[0])


def hypervolumes(safety: NDArray[np.float64], utility: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`hypervolume` of many fronts at once.

    In two dimensions this is one pass over the sorted points; moocore, which does any dimension, stays the tests'
    oracle, so that measuring a sweep needs core dependencies only.

    Args:
        safety: points × fronts.
        utility: points × fronts.

    Returns:
        One area per front; NaN where a coordinate is.
    """
    order = np.argsort(-safety, axis=0, kind="stable")
    across = np.clip(np.take_along_axis(safety, order, axis=0), 0, None)
    reached = np.maximum.accumulate(np.clip(np.take_along_axis(utility, order, axis=0), 0, None), axis=0)
    gained = np.diff(reached, axis=0, prepend=np.zeros((1, reached.shape[1])))
    return np.asarray((across * gained).sum(axis=0))


def _check(points: Sequence[Pair], what: str) -> None:
    for number, point in enumerate(points):
        if not all(math.isfinite(value) for value in point):
            raise DataError(f"{what}: point {number} is {tuple(point)}; safety and utility must be finite")
