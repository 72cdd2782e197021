"""The same bytes on any number of threads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge import merge


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "knots", "tsv_m"])
def test_a_merge_without_data_is_the_same_on_two_threads(method: str, build: Any, threads: Any, tmp_path: Path) -> None:
    """Large enough that torch shares the work: without the engine's one thread, these differ."""
    adapters = [
        build.random_adapter({"m": (700, 600)}, name=name, rank=24, seed=seed, dtype=torch.float32)
        for seed, name in enumerate("abc")
    ]
    found = []
    for number in (1, 2):
        threads(number)
        merge(adapters, method).save(tmp_path / str(number))
        assert torch.get_num_threads() == number
        found.append((tmp_path / str(number) / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]
