"""Modules of different ranks in one file: what PEFT, vLLM and llama.cpp make of it, by their own rules."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sst_merge.lora_utils import Adapter, EmbeddingKind, LoraFactors

RANKS = {"model.layers.0.self_attn.q_proj": 2, "model.layers.1.self_attn.q_proj": 5, "model.layers.1.mlp.up_proj": 1}


def deltas(folder: Path, scale_of: Any) -> dict[str, Tensor]:
    """scale · B·A of every module, in float64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, a in tensors.items():
        for end in ("lora_A.weight", "lora_embedding_A"):
            if key.endswith(end):
                b = tensors[key.removesuffix(end) + end.replace("A", "B")]
                module = key.removeprefix("base_model.model.").removesuffix(f".{end}")
                found[module] = scale_of(config, a.shape[0]) * b.double() @ a.double()
    return found


def one_scale(config: Mapping[str, Any], rank: int) -> float:
    """vLLM's PEFTHelper: lora_alpha / r for all, no patterns."""
    return config["lora_alpha"] / config["r"]


def own_rank(config: Mapping[str, Any], rank: int) -> float:
    """llama.cpp's convert_lora_to_gguf and llama-adapter: one alpha for the file, over each tensor's own rank."""
    return config["lora_alpha"] / rank


@pytest.fixture
def adapter(build: Any) -> Adapter:
    shapes = {name: (24, 16) if "mlp" in name else (16, 16) for name in RANKS}
    factors = {
        name: build.random_factors(*shapes[name], rank, seed=rank).to(dtype=torch.float32)
        for name, rank in RANKS.items()
    }
    embedding = LoraFactors(torch.randn(16, 3), torch.randn(3, build.VOCABULARY), EmbeddingKind())
    return Adapter.from_factors({**factors, "model.embed_tokens": embedding}, name="mixed")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_reader_sees_the_same_update(
    build: Any, relative_error: Any, adapter: Adapter, dtype: torch.dtype, tmp_path: Path
) -> None:
    from peft import PeftModel

    out, kept = (
        adapter.save(tmp_path / "one", dtype=dtype),
        adapter.save(tmp_path / "own", dtype=dtype, ranks="pattern"),
    )
    assert {tensor.shape[0] for key, tensor in load_file(out / "adapter_model.safetensors").items() if "_A" in key} == {
        5
    }
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 5 and config["rank_pattern"] == config["alpha_pattern"] == {}
    again, before = Adapter.load(out), Adapter.load(kept)
    for module in adapter.modules:
        exact = adapter.factors(module).to(dtype=dtype)
        expected = exact.b.double() @ exact.a.double()
        # Zeros change no product: the form with patterns, which was written before, gives the same numbers.
        assert torch.equal(again.delta(module, dtype=torch.float64), before.delta(module, dtype=torch.float64))
        for reader in (one_scale, own_rank):
            assert relative_error(deltas(out, reader)[module], expected) < 1e-12
    model = build.tiny_model("llama")
    by_hand = build.logits(build.add_deltas(model, again))
    assert relative_error(build.logits(PeftModel.from_pretrained(copy.deepcopy(model), out).eval()), by_hand) < 1e-5


def test_a_reader_without_patterns_reads_the_kept_ranks_wrong(adapter: Adapter, tmp_path: Path) -> None:
    kept = adapter.save(tmp_path / "own", ranks="pattern")
    found, expected = deltas(kept, own_rank), {module: adapter.delta(module) for module in adapter.modules}
    for module in adapter.modules:
        torch.testing.assert_close(found[module].float(), expected[module] * 5 / adapter.rank(module))


def test_one_rank_leaves_files_of_one_rank_as_they_are(build: Any, tmp_path: Path) -> None:
    adapter = build.random_adapter({"a.0.x": (5, 3), "a.1.x": (4, 6)}, name="same")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        files = [adapter.save(tmp_path / ranks, ranks=ranks, force=True) / name for ranks in ("uniform", "pattern")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_bias_keeps_its_shape(build: Any, tmp_path: Path) -> None:
    factors = {f"x{rank}": build.random_factors(6, 7, rank, seed=rank, bias=True) for rank in (2, 4)}
    adapter = Adapter.from_factors(factors, name="biased")
    again = Adapter.load(adapter.save(tmp_path / "out"))
    for module, factor in factors.items():
        shift = again.factors(module).bias_delta()
        assert shift is not None
        torch.testing.assert_close(shift, factor.bias_delta())
        torch.testing.assert_close(again.delta(module), factor.delta())


@pytest.mark.newer("peft", "0.21", "it loads no LoRA onto experts that transformers stacks")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fused_experts_of_several_ranks_load_in_peft(relative_error: Any, tmp_path: Path) -> None:
    """Transformers stacks the experts of a Mixtral, PEFT then ignores rank_pattern for them."""
    from peft import PeftModel
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    model = MixtralForCausalLM(
        MixtralConfig(**sizes, num_key_value_heads=2, num_hidden_layers=1, num_local_experts=2, num_experts_per_tok=1)
    ).eval()
    shapes = {"w1": (12, 8), "w2": (8, 12), "w3": (12, 8)}
    generator = torch.Generator().manual_seed(0)

    def factors(shape: tuple[int, int], rank: int) -> LoraFactors:
        b, a = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
        return LoraFactors(b, a)

    stem = "model.layers.0.block_sparse_moe.experts"
    update = {f"{stem}.{e}.{w}": factors(shape, 1 + e) for e in range(2) for w, shape in shapes.items()}
    update["model.layers.0.self_attn.q_proj"] = factors((8, 8), 4)
    out = Adapter.from_factors(update, name="experts").save(tmp_path / "out")
    with safe_open(out / "adapter_model.safetensors", framework="pt") as handle:
        assert len(handle.keys()) == 2 * len(update)
    merged = PeftModel.from_pretrained(copy.deepcopy(model), out).merge_and_unload()
    before, after = model.model.layers[0].mlp.experts, merged.model.layers[0].mlp.experts
    for e in range(2):
        delta = {w: update[f"{stem}.{e}.{w}"].delta() for w in shapes}
        assert relative_error(after.down_proj[e] - before.down_proj[e], delta["w2"]) < 1e-4
        expected = torch.cat([delta["w1"], delta["w3"]])
        assert relative_error(after.gate_up_proj[e] - before.gate_up_proj[e], expected) < 1e-4
