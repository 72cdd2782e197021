"""Leading and complete singular triplets of dense matrices against NumPy's SVD in float64."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sst_merge.core_space import all_triplets, leading_triplets

SHAPE = (512, 600)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rank: int, seed: int, shape: tuple[int, int] = SHAPE) -> Tensor:
    return normal(shape[0], rank, seed=seed) @ normal(rank, shape[1], seed=seed + 1)


def with_spectrum(values: Tensor) -> Tensor:
    left, right = (torch.linalg.qr(normal(n, values.numel(), seed=n)).Q for n in SHAPE)
    return (left * values) @ right.T


def trimmed(update: Tensor) -> Tensor:
    return torch.where(update.abs() >= update.abs().flatten().quantile(0.8), update, 0.0)


# What entry-wise methods leave, and spectra that are hard: flat, slow, in two parts, with a gap exactly at the rank.
MATRICES: dict[str, Callable[[], Tensor]] = {
    "trimmed sum": lambda: sum((trimmed(low_rank(16, 10 * i)) for i in range(3)), torch.zeros(SHAPE)),
    "sparse": lambda: low_rank(16, 5) * (normal(*SHAPE, seed=9) > 1.3),
    "noise": lambda: normal(*SHAPE, seed=3),
    "slow decay": lambda: with_spectrum(torch.arange(1, 513, dtype=torch.float64) ** -0.5),
    "fast decay": lambda: with_spectrum(torch.logspace(0, -8, 512, dtype=torch.float64)),
    "two parts": lambda: low_rank(8, 1) + 0.3 * normal(*SHAPE, seed=2),
    "gap at the rank": lambda: low_rank(16, 1) + 1e-3 * normal(*SHAPE, seed=2),
}


def dense_values(matrix: Tensor) -> NDArray[np.float64]:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


@cache
def made(name: str, dtype: torch.dtype) -> tuple[Tensor, NDArray[np.float64]]:
    """A matrix and its singular values; once for all ranks that are tried on it."""
    matrix = MATRICES[name]().to(dtype)
    return matrix, dense_values(matrix)


def leading(matrix: Tensor, rank: int, **more: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    found = leading_triplets(matrix, rank, norm=float(matrix.norm()), **more)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [1, 8, 16])
@pytest.mark.parametrize("name", MATRICES)
def test_captured_energy_is_within_a_thousandth_of_the_best_and_honest(
    name: str, rank: int, dtype: torch.dtype
) -> None:
    matrix, dense = made(name, dtype)
    left, values, right = leading(matrix, rank)
    captured, best = float(values.square().sum()), float((dense[:rank] ** 2).sum())
    assert (1 - 1e-3) * best <= captured <= (1 + 1e-6) * best
    missed = float((matrix - (left * values.to(left)) @ right).double().square().sum())
    assert captured + missed == pytest.approx(float(matrix.double().square().sum()), rel=1e-5)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert torch.allclose(left.T @ left, torch.eye(rank, dtype=dtype), atol=tolerance)
    assert torch.allclose(right @ right.T, torch.eye(rank, dtype=dtype), atol=tolerance)
    assert bool((values[:-1] >= values[1:]).all())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]], ids=str)
def test_matrix_of_at_most_the_rank_comes_back(
    relative_error: Any, shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    for rank in (1, 5, 16):
        matrix = low_rank(rank, 7, shape).to(dtype)
        left, values, right = leading(matrix, 16)
        assert relative_error((left * values.to(left)) @ right, matrix) <= tolerance


def test_equal_matrices_give_equal_bytes_whatever_was_drawn_before() -> None:
    matrix = MATRICES["sparse"]().float()
    first = leading(matrix, 16)
    torch.manual_seed(99)
    torch.rand(5)
    assert all(torch.equal(x, y) for x, y in zip(first, leading(matrix.clone(), 16), strict=True))


def test_hint_may_mislead() -> None:
    """A hint in the null space of a matrix, and one that is zero."""
    matrix = low_rank(40, 3)
    null = torch.linalg.svd(matrix).Vh[40:].T
    best = float((dense_values(matrix)[:16] ** 2).sum())
    for hint in (lambda probes: null[:, : probes.shape[1]], lambda probes: torch.zeros(SHAPE[1], probes.shape[1])):
        _, values, _ = leading(matrix, 16, hint=lambda probes, h=hint: h(probes).double())
        assert float(values.square().sum()) >= (1 - 1e-3) * best


def test_it_declines_where_it_does_not_pay() -> None:
    for matrix, rank in ((normal(100, 400, seed=1), 4), (normal(*SHAPE, seed=1), 40), (torch.zeros(SHAPE), 4)):
        assert leading_triplets(matrix, rank, norm=float(matrix.norm())) is None


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (1, 9)], ids=str)
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
def test_all_triplets_of_float32_are_those_of_float64(
    relative_error: Any, shape: tuple[int, int], scale: float
) -> None:
    matrix = (scale * normal(*shape, seed=4) * torch.logspace(0, -6, shape[1], dtype=torch.float64)).float()
    left, values, right = all_triplets(matrix)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    assert np.abs(values.numpy() - expected).max() <= 3e-8 * expected[0]
    assert relative_error((left * (values / scale).float()) @ right, matrix / scale) <= 1e-6
    kept = values > values[0] * max(shape) * torch.finfo(torch.float32).eps
    for vectors in (left.T[kept], right[kept]):
        assert torch.allclose(vectors @ vectors.T, torch.eye(int(kept.sum())), atol=1e-5)


def test_rank_of_a_float32_product_is_not_inflated_by_rounding() -> None:
    matrix = low_rank(12, 2).float()
    _, values, _ = all_triplets(matrix)
    assert int((values > values[0] * max(SHAPE) * torch.finfo(torch.float32).eps).sum()) == 12
    assert float(all_triplets(torch.zeros(4, 6))[1].max()) == 0.0
