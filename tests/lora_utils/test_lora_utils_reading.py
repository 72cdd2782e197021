"""Adapter.load against PEFT itself: every variant that is read must give PEFT's own ΔW."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.lora_utils import Adapter


def assert_equals_peft(
    relative_error: Any, adapter: Adapter, adapted: Any, tolerance: float, dtype: torch.dtype | None
) -> None:
    from peft.tuners.lora import LoraLayer

    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert set(adapter.modules) == set(layers)
    for module, layer in layers.items():
        expected = layer.get_delta_weight("default")
        base = layer.get_base_layer()
        canonical = expected if isinstance(base, torch.nn.Linear) else expected.T
        assert adapter.shape(module) == tuple(canonical.shape)
        assert relative_error(adapter.delta(module, dtype=dtype), canonical) <= tolerance
        factors = adapter.factors(module, dtype=dtype)
        assert factors.rank == adapter.rank(module) == layer.r["default"] + int(adapter.has_bias(module))
        if adapter.has_bias(module):
            shift = factors.bias_delta()
            assert shift is not None
            assert relative_error(shift, layer.lora_B["default"].bias * layer.scaling["default"]) <= tolerance


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_delta_equals_peft(
    build: Any, relative_error: Any, variant: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        if variant.get("init_lora_weights") == "mica" and dtype == torch.float64:
            continue  # PEFT initialises MiCA in 32 bits or less
        model = build.tiny_model(architecture, dtype=dtype)
        adapted = build.peft_model(model, **variant)
        folder = tmp_path / str(dtype)
        adapted.save_pretrained(folder)
        adapter = Adapter.load(folder)
        assert adapter.factors(adapter.modules[0]).b.dtype == dtype
        # Reloaded, because saving sorts the patterns: of two that overlap, another one may win then.
        assert_equals_peft(relative_error, adapter, PeftModel.from_pretrained(model, folder), tolerance, None)


def test_stored_delta_is_what_peft_merges_into_the_weight(
    build: Any, relative_error: Any, architecture: str, tmp_path: Path
) -> None:
    arch = build.ARCHITECTURES[architecture]
    model = build.tiny_model(architecture, dtype=torch.float64)
    options = {"fan_in_fan_out": True} if arch.conv1d else {}
    adapted = build.peft_model(model, targets=arch.linears, **options)
    adapted.save_pretrained(tmp_path)
    merged = adapted.merge_and_unload()
    adapter = Adapter.load(tmp_path)
    for module in adapter.modules:
        difference = merged.get_submodule(module).weight - model.get_submodule(module).weight
        assert relative_error(adapter.factors(module).stored_delta(), difference) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened_before_the_scale(
    build: Any, relative_error: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    # 11/7 is not a power of two: a product in 16 bits would be off by about 1e-3.
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"], r=7, lora_alpha=11)
    file = tmp_path / "adapter_model.safetensors"
    stored = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
    save_file(stored, file)
    adapter = Adapter.load(tmp_path)
    module = "model.layers.1.self_attn.q_proj"
    prefix = f"base_model.model.{module}"
    exact = 11 / 7 * stored[f"{prefix}.lora_B.weight"].double() @ stored[f"{prefix}.lora_A.weight"].double()
    assert adapter.factors(module).b.dtype == torch.float32
    assert relative_error(adapter.delta(module), exact) <= 1e-6
    assert relative_error(adapter.delta(module, dtype=torch.float64), exact) <= 1e-14
    scaled = 11 / 7 * stored[f"{prefix}.lora_B.weight"].double()
    assert torch.equal(adapter.factors(module, dtype=dtype).b, scaled.to(dtype))


@pytest.mark.parametrize("part", ["linear", "embedding"])
def test_keys_with_an_adapter_name(build: Any, part: str, tmp_path: Path) -> None:
    targets = ["q_proj"] if part == "linear" else ["q_proj", "embed_tokens"]
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=targets)
    before = Adapter.load(tmp_path)
    deltas = {module: before.delta(module) for module in before.modules}
    file = tmp_path / "adapter_model.safetensors"
    renamed = {}
    for key, tensor in load_file(file).items():
        named = re.sub(r"\.(lora_(?:embedding_)?[AB])(\.weight)?$", r".\1.default\2", key)
        assert named != key or key.endswith("base_layer.weight")
        renamed[named] = tensor
    save_file(renamed, file)
    after = Adapter.load(tmp_path)
    assert after.modules == before.modules
    for module, delta in deltas.items():
        assert torch.equal(after.delta(module), delta)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mixed_conv1d_and_linear_whatever_the_flag_says(build: Any, relative_error: Any, tmp_path: Path) -> None:
    model = build.tiny_model("gpt2", dtype=torch.float64)
    adapted = build.peft_model(model, targets=["c_attn", "lm_head"])
    adapted.save_pretrained(tmp_path)
    adapter = Adapter.load(tmp_path)
    assert_equals_peft(relative_error, adapter, adapted, 1e-12, None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tied_adapters_are_read_one_by_one(build: Any, relative_error: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = build.tiny_config("llama")
    config.tie_word_embeddings = True
    options = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    adapted = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=3, lora_alpha=4, **options))
    build.randomise(adapted, seed=1, only="lora_")
    adapted.save_pretrained(tmp_path)
    assert_equals_peft(relative_error, Adapter.load(tmp_path), adapted, 1e-6, None)


@pytest.mark.newer("peft", "0.21", "it knows neither VeLoRA nor MonteCLoRA")
@pytest.mark.parametrize("name", ["velora_config", "monteclora_config"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_variants_that_only_change_training_are_read(
    build: Any, relative_error: Any, name: str, tmp_path: Path
) -> None:
    from peft import MontecloraConfig, VeloraConfig

    settings = {"velora_config": VeloraConfig(num_groups=4), "monteclora_config": MontecloraConfig(num_samples=2)}
    model = build.tiny_model("llama")
    adapted = build.peft_model(model, targets=["q_proj", "v_proj"], **{name: settings[name]})
    adapted.save_pretrained(tmp_path)
    adapter = Adapter.load(tmp_path)
    assert_equals_peft(relative_error, adapter, adapted, 1e-6, None)
    assert relative_error(build.logits(build.add_deltas(model, adapter)), build.logits(adapted)) <= 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_way_out_for_pissa_works(build: Any, relative_error: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = build.tiny_model("llama")
    original = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adapted = get_peft_model(model, LoraConfig(init_lora_weights="pissa", target_modules=["q_proj"], r=3))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "initial")
    adapted.peft_config["default"].init_lora_weights = "pissa"
    build.randomise(adapted, seed=3, only="lora_")
    adapted.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "initial")
    adapter = Adapter.load(tmp_path / "converted")
    trained = adapted.merge_and_unload()
    for module in adapter.modules:
        difference = trained.get_submodule(module).weight - original[f"{module}.weight"]
        assert relative_error(adapter.delta(module), difference) <= 1e-5


def test_natural_order_and_attributes(build: Any, tmp_path: Path) -> None:
    model = build.tiny_model("llama")
    build.adapter_folder(model, tmp_path / "code", targets=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapter = Adapter.load(tmp_path / "code", role="safety", weight=0.5)
    assert (adapter.name, adapter.role, adapter.weight, adapter.task_type) == ("code", "safety", 0.5, "CAUSAL_LM")
    assert adapter.modules == tuple(f"model.layers.{i}.self_attn.{p}" for i in range(2) for p in ("q_proj", "v_proj"))
    assert "model.layers.1.self_attn.q_proj" in adapter
    assert "model.layers.1.self_attn.k_proj" not in adapter
    other = adapter.with_(weight=-2.0, name="b")
    assert (other.name, other.role, other.weight) == ("b", "safety", -2.0)
    assert torch.equal(other.delta(adapter.modules[0]), adapter.delta(adapter.modules[0]))


def test_fingerprints_are_sha256_of_the_files(build: Any, tmp_path: Path) -> None:
    import hashlib

    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"])
    found = Adapter.load(tmp_path).fingerprints()
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert found == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}


def test_factors_outlive_the_file(build: Any, tmp_path: Path) -> None:
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"])
    adapter = Adapter.load(tmp_path)
    factors = adapter.factors(adapter.modules[0])
    expected = factors.b.clone()
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert torch.equal(factors.b, expected)
