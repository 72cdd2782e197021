"""The random control: an orthogonal projector of rank k whose law prefers no direction."""

import pytest
import torch
from torch import Tensor

from sst_merge.baselines.random_subspace import project_at_random

P, Q = 4, 6
N = P * Q


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def projector(k: int, seed: int) -> Tensor:
    """The dense matrix of the projection of one seed, column by column, (pq, pq)."""
    units = torch.eye(N, dtype=torch.float64).reshape(N, P, Q)
    return torch.stack([project_at_random(unit, k, generator(seed)).flatten() for unit in units], dim=1)


@pytest.mark.parametrize("k", [1, 7, N])
def test_it_is_an_orthogonal_projector_of_rank_k(k: int) -> None:
    dense = projector(k, seed=k)
    torch.testing.assert_close(dense, dense.T, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(dense @ dense, dense, rtol=0.0, atol=1e-14)
    values = torch.linalg.eigvalsh(dense)
    assert int((values > 0.5).sum()) == k
    torch.testing.assert_close(values, values.round(), rtol=0.0, atol=1e-13)


def test_it_averages_to_the_share_of_the_identity() -> None:
    k, seeds = 7, 400
    drawn = torch.stack([projector(k, seed) for seed in range(seeds)])
    error = (drawn.mean(0) - k / N * torch.eye(N, dtype=torch.float64)).square().sum()
    assert float(error) <= 2.0 * float(drawn.var(0).sum()) / seeds
    # The largest eigenvalue would show a preferred direction that the mean square of all entries hides.
    assert float(torch.linalg.eigvalsh(drawn.mean(0))[-1]) < k / N + 0.12


@pytest.mark.parametrize("rank", [1, P])
def test_the_kept_share_of_energy_spreads_as_documented(rank: int) -> None:
    p, q, k, seeds = 12, 12, 36, 600
    patch = torch.randn(p, rank, generator=generator(1), dtype=torch.float64) @ torch.randn(
        rank, q, generator=generator(2), dtype=torch.float64
    )
    energy = float(patch.square().sum())
    kept = torch.tensor([
        float(project_at_random(patch, k, generator(s)).square().sum()) / energy for s in range(seeds)
    ])
    share = k / (p * q)
    uniform = (2.0 * share * (1.0 - share) / (p * q)) ** 0.5
    assert abs(float(kept.mean()) - share) <= 4.0 * float(kept.std()) / seeds**0.5
    assert 0.8 * uniform <= float(kept.std()) <= 2.2 * uniform


def test_the_seed_decides_in_every_type() -> None:
    patch = torch.randn(P, Q, generator=generator(0), dtype=torch.float64)
    one, again, other = (project_at_random(patch, 9, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    single = project_at_random(patch.float(), 9, generator(3))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), one, rtol=0.0, atol=1e-6)


def test_twenty_adapters_of_rank_16_take_little_memory_and_time() -> None:
    # The basis of a uniform draw would be 102400 × 25600 numbers.
    patch = torch.randn(320, 320, generator=generator(0), dtype=torch.float64)
    kept = project_at_random(patch, 25600, generator(1))
    assert float(kept.square().sum() / patch.square().sum()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(project_at_random(kept, 25600, generator(1)), kept, rtol=0.0, atol=1e-12)
