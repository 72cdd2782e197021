"""Refusals against over-refusals: rates of hulls, beside the best mixture of points that linear programming finds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from sst_merge.measures.roc import RocHull


def curves() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Refused and harmless rates, points × 40, of few values, so that points coincide and lie on one line."""
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, 6, (2, points, 40)) / 5) for points in range(1, 8)]


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9, 1.0])
def test_over_refusal_is_the_least_of_any_mixture_of_points(rate: float) -> None:
    for refused, harmless in curves()[::2]:
        found = RocHull.of(refused, harmless).over_refusal(rate)
        ends = np.repeat([[0.0], [1.0]], harmless.shape[1], axis=1)
        x, y = np.concatenate([harmless, ends]), np.concatenate([refused, ends])
        for column, over_refusal in enumerate(found):
            shares = {"A_eq": np.ones((1, len(x))), "b_eq": [1.0]}
            least = linprog(x[:, column], A_ub=-y[None, :, column], b_ub=[-rate], **shares)
            assert over_refusal == pytest.approx(least.fun, abs=1e-9)


def test_a_hull_does_not_depend_on_how_far_a_sweep_goes() -> None:
    refused, harmless = np.array([[0.3], [0.6], [0.9]]), np.array([[0.1], [0.2], [0.3]])
    part, whole = RocHull.of(refused[2:], harmless[2:]), RocHull.of(refused, harmless)
    assert [*part.over_refusal(0.6), *whole.over_refusal(0.6)] == pytest.approx([0.2, 0.2])
