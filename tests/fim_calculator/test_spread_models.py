"""Bases that no card holds: spread over processes by transformers, offloaded by accelerate, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from tests.conftest import launched

from sst_merge import processes
from sst_merge.errors import BaseModelError
from sst_merge.fim_calculator import CoreModel, build_spaces, compute_fim, divergences

SHAPES = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.self_attn.o_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
    "model.layers.1.self_attn.v_proj": (8, 16),
    "model.layers.1.mlp.gate_proj": (24, 16),
    "lm_head": (37, 16),
}
WHOLE = "model.embed_tokens"


@pytest.fixture(scope="module")
def figures(build: Any, oracle: Any) -> Callable[[Any], dict[str, torch.Tensor]]:
    """Fishers at a point that is not the base, and divergences; of a model in float64."""
    adapter = build.random_adapter(SHAPES, name="skill", rank=2, seed=1)
    spaces = build_spaces([adapter], dtype=torch.float64)
    cores = {m: 0.1 * space.coordinates(adapter.factors(m)) for m, space in spaces.items()}
    batches = oracle.batched(oracle.random_samples(5), 3)

    def measured(model: Any) -> dict[str, torch.Tensor]:
        found = {}
        for structure in ("kronecker", "lowrank"):
            fisher = compute_fim(model, spaces, batches, point=cores, structure=structure)
            found |= {f"{structure} {m}": layer.dense() for m, layer in fisher.layers.items()}
        with CoreModel(model, spaces) as attached:
            found["divergence"] = torch.tensor(divergences(attached, [cores], {}, batches))
        return found

    return measured


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert float((value - expected[name]).abs().max()) <= 1e-9 * float(expected[name].abs().max()), name


def test_projections_of_layers_that_two_processes_hold(build: Any, figures: Any, tmp_path: Path) -> None:
    build.tiny_model("llama", dtype=torch.float64).save_pretrained(tmp_path / "base")

    def spread() -> Any:
        from transformers import AutoModelForCausalLM

        torch.distributed.init_process_group("gloo")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", tp_plan="auto", dtype=torch.float64).eval()
        assert model.model.layers[0].mlp.down_proj.weight.to_local().shape == (16, 12)
        found = figures(model)
        with processes.joined(), pytest.raises(BaseModelError, match="have to read the same rows"):
            figures(model)
        with processes.joined(), pytest.raises(BaseModelError, match="FSDP has cut its weights"):
            whole = build.tiny_model("llama")
            torch.distributed.fsdp.fully_shard(whole)
            figures(whole)
        # A second group on the same port could meet the end of the first, and wait for ever.
        torch.distributed.destroy_process_group()
        return found

    expected = figures(build.tiny_model("llama", dtype=torch.float64))
    accelerate.PartialState()  # a library has asked before there was a group
    reports = launched(2, spread, tmp_path / "said")
    accelerate.PartialState._reset_state()
    for state, found in reports:
        if state and "connectFullMesh failed" in found:
            pytest.skip("gloo cannot connect processes on this machine")
        assert state == 0, found
        same(found, expected)


def test_an_offloaded_base_gives_the_same_numbers(build: Any, figures: Any) -> None:
    from accelerate import cpu_offload

    model = build.tiny_model("llama", dtype=torch.float64)
    expected = figures(model)
    offloaded = cpu_offload(model, execution_device=torch.device("cpu"))
    assert offloaded.model.layers[0].mlp.down_proj.weight.device.type == "meta"
    found = figures(offloaded)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert offloaded.model.layers[0].mlp.down_proj.weight.device.type == "meta"
