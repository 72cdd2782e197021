"""Draws of single entries: as often as asked for, the same in blocks as whole, independent of what was drawn before."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sst_merge.methods.parts.draws import EntryDraws


def below(density: float | Tensor, *shape: int, seed: int = 3) -> Tensor:
    return EntryDraws(torch.Generator().manual_seed(seed)).below(density, torch.empty(*shape))


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.97])
def test_as_many_are_kept_as_asked_for(density: float) -> None:
    n = 1000 * 999
    sigma = np.sqrt(n * density * (1 - density))
    assert abs(float(below(density, 1000, 999).sum()) - n * density) < 4.5 * sigma
    single = torch.full((1000, 999), density)
    assert abs(float(below(single, 1000, 999, seed=4).sum()) - n * density) < 4.5 * sigma


def test_every_entry_has_its_own_probability() -> None:
    n = 4000
    density = torch.linspace(0.0, 1.0, 21).expand(n, 21)
    kept = below(density, n, 21).mean(0)
    expected = density[0]
    assert bool(((kept - expected).abs() <= 4.5 * (expected * (1 - expected) / n).sqrt()).all())


@pytest.mark.parametrize("columns", [1, 6, 7])
def test_blocks_of_rows_have_the_draws_of_the_whole(columns: int) -> None:
    whole = below(0.4, 50, columns)
    draws = EntryDraws(torch.Generator().manual_seed(3))
    blocks = [draws.below(0.4, torch.empty(rows, columns)) for rows in (1, 30, 19)]
    assert torch.equal(torch.cat(blocks), whole)


def test_neither_what_was_drawn_before_nor_the_type_matters() -> None:
    used = torch.Generator().manual_seed(3)
    torch.rand(5, generator=used)
    assert torch.equal(EntryDraws(used).below(0.4, torch.empty(9, 5).double()), below(0.4, 9, 5).double())
    assert not torch.equal(below(0.4, 9, 5, seed=4), below(0.4, 9, 5))


def test_one_keeps_all() -> None:
    assert bool(below(1.0, 40, 30).all()) and bool(below(torch.ones(40, 30), 40, 30).all())
