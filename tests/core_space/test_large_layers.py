"""Ways of KnOTS and DELLA that only layers larger than the adapters' rank, or float32, take."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sst_merge.baselines.della import DellaOptions, della
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import merge
from sst_merge.methods import Layer

D_OUT, D_IN = 250, 180


def knots_by_svd(updates: list[Tensor], density: float) -> Tensor:
    """KnOTS with TIES as its paper has it: one SVD of the whole stack."""
    left, values, _ = torch.linalg.svd(torch.cat(updates, dim=1), full_matrices=False)
    left = left[:, : int((values > 1e-10 * values[0]).sum())]
    # Σ Vᵢᵀ, without the rounding noise of an update that is 0.
    parts = [left.T @ update for update in updates]
    kept = [
        p * (p.abs() >= p.abs().flatten().sort(descending=True).values[int(density * p.numel()) - 1]) for p in parts
    ]
    agrees = [(k.sign() == torch.stack(kept).sum(0).sign()) & (k != 0) for k in kept]
    total = torch.stack([k * a for k, a in zip(kept, agrees, strict=True)]).sum(0)
    return left @ (total / torch.stack(agrees).sum(0).clamp_min(1))


@pytest.mark.parametrize("case", ["independent", "opposed", "one is small", "one touches nothing"])
def test_knots_finds_the_range_of_every_update_by_probes(build: Any, relative_error: Any, case: str) -> None:
    factors = [build.random_factors(D_OUT, D_IN, rank, seed=rank) for rank in (3, 6, 4)]
    if case == "opposed":
        factors[2] = LoraFactors(-0.75 * factors[1].b, factors[1].a)
    if case == "one is small":
        factors[0] = LoraFactors(1e-4 * factors[0].b, factors[0].a)
    adapters = [Adapter.from_factors({"m": f}, name=f"a{i}") for i, f in enumerate(factors)]
    updates = [f.b @ f.a for f in factors]
    if case == "one touches nothing":
        adapters[0] = Adapter.from_factors({"other": factors[0]}, name="a0")
        updates[0] = torch.zeros_like(updates[0])
    found = merge(adapters, "knots", compute_dtype=torch.float64).adapter.delta("m", dtype=torch.float64)
    assert relative_error(found, knots_by_svd(updates, 0.2)) <= 1e-9


def test_della_ranks_float32_as_float64_the_first_of_equal_entries_first() -> None:
    """Small integers hold many ties, zeros of both signs among them; the draws are float32 in both types."""
    generator = torch.Generator().manual_seed(0)
    tau = torch.randint(-3, 4, (40, 700), generator=generator).float()
    tau[0] = -0.0
    options = DellaOptions(elect=False, rescale="none", epsilon=0.5)

    def dropped(update: Tensor) -> Tensor:
        return della.merge_layer(
            Layer("m", (update,), (1.0,), ("utility",), torch.Generator().manual_seed(1)), options, None
        )

    single, double = dropped(tau), dropped(tau.double())
    # A probability that rounds to either side of its draw may differ, ranks may not.
    assert int((single.double() != double).sum()) <= 2
    assert 0.2 < float((single != 0).sum() / (tau != 0).sum()) < 0.4
