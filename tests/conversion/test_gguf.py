"""A LoRA in GGUF holds PEFT's ΔW under llama.cpp's names; what it cannot hold is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sst_merge.conversion import GgufBase, named_for_base, write_gguf
from sst_merge.conversion.gguf_names import _ARCHITECTURES
from sst_merge.errors import BaseModelError, ConversionError
from sst_merge.lora_utils import Adapter

gguf = pytest.importorskip("gguf")

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def tensors(file: Path) -> dict[str, Tensor]:
    """Name → values, in rows and columns."""
    found = {}
    for tensor in gguf.GGUFReader(file).tensors:
        data = np.array(tensor.data)
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            data = gguf.quants.dequantize(data, tensor.tensor_type)
        found[tensor.name] = torch.from_numpy(data).reshape(*(int(n) for n in reversed(tensor.shape)))
    return found


def value(file: Path, key: str) -> Any:
    return gguf.GGUFReader(file).fields[key].contents()


def as_transformers(rows: Tensor, heads: int) -> Tensor:
    """Rows of llama.cpp's q and k (x₀, y₀, x₁, y₁, …) as transformers has them (x₀, x₁, …, y₀, y₁, …), head by head."""
    per_head = rows.split(len(rows) // heads)
    return torch.cat([part for head in per_head for part in (head[0::2], head[1::2])])


def exported(model: Any, base: Path, folder: Path, out: Path, **options: Any) -> tuple[Path, Any]:
    adapter = named_for_base(Adapter.load(folder), base).adapter
    return out, write_gguf(out, adapter, GgufBase.of(base), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_tensor_is_pefts_update(
    build: Any, tmp_path: Path, tiny_base: Any, peft_deltas: Callable[[Any], dict[str, Tensor]], dtype: torch.dtype
) -> None:
    model, base = tiny_base("llama")
    options = {"targets": [*LLAMA, "embed_tokens"], "rank_pattern": {"q_proj": 7}, "use_rslora": True}
    folder = build.adapter_folder(model, tmp_path / "in", **options)
    file, written = exported(model, base, folder, tmp_path / "lora.gguf", dtype=dtype)
    assert [value(file, key) for key in ("general.type", "general.architecture", "adapter.type")] == [
        "adapter",
        "llama",
        "lora",
    ]
    found, alpha = tensors(file), value(file, "adapter.lora.alpha")
    deltas = peft_deltas(build.peft_model(model, **options))
    assert set(written.names) == set(deltas)
    assert len(found) == 2 * len(deltas)
    for module, name in written.names.items():
        a, b = found[f"{name}.lora_a"].double(), found[f"{name}.lora_b"].double()
        # llama.cpp looks rows of the embedding's A up; its scale is alpha over the columns of B.
        delta = alpha / b.shape[1] * (b @ a.T if name == "token_embd.weight" else b @ a)
        if module.endswith(("q_proj", "k_proj")):
            delta = as_transformers(delta, 4 if module.endswith("q_proj") else 2)
        tolerance = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
        assert float((delta - deltas[module]).norm() / deltas[module].norm()) < tolerance, module
    assert written.names["model.layers.1.self_attn.q_proj"] == "blk.1.attn_q.weight"
    assert written.names["model.layers.0.mlp.down_proj"] == "blk.0.ffn_down.weight"
    assert written.names["lm_head"] == "output.weight"


def test_conv1d_is_not_turned(
    build: Any, tmp_path: Path, tiny_base: Any, peft_deltas: Callable[[Any], dict[str, Tensor]]
) -> None:
    model, base = tiny_base("gpt2")
    options = {"targets": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}
    folder = build.adapter_folder(model, tmp_path / "in", **options)
    file, written = exported(model, base, folder, tmp_path / "lora.gguf")
    found = tensors(file)
    for module, delta in peft_deltas(build.peft_model(model, **options)).items():
        name = written.names[module]
        torch.testing.assert_close(found[f"{name}.lora_b"] @ found[f"{name}.lora_a"], delta.float())
    assert written.names["transformer.h.1.attn.c_attn"] == "blk.1.attn_qkv.weight"


@pytest.mark.parametrize("model_type", sorted(_ARCHITECTURES))
def test_llama_cpp_has_a_name_for_every_layer(tmp_path: Path, model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    more = {"num_key_value_heads": 4, "vocab_size": 37, "pad_token_id": 0, "tie_word_embeddings": False}
    config = AutoConfig.for_model(model_type, **small, **more)
    config.save_pretrained(tmp_path)
    base = GgufBase.of(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    if base.architecture in {"gemma", "gemma2"}:  # whose output layer is always the embedding
        layers.remove("lm_head")
        with pytest.raises(ConversionError, match="'lm_head' has no name"):
            base.tensor_name("lm_head")
    names = [base.tensor_name(name) for name in layers]
    assert len(set(names)) == len(layers) >= 2 * 4
    assert (base.blocks, base.heads, base.architecture in gguf.MODEL_ARCH_NAMES.values()) == (2, 4, True)


def test_a_rank_is_cut_and_filled(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    model, base = tiny_base("llama")
    folder = build.adapter_folder(model, tmp_path / "in", targets=["v_proj"], r=6, lora_alpha=6)
    small, written = exported(model, base, folder, tmp_path / "small.gguf", rank=1)
    assert value(small, "adapter.lora.alpha") == 1.0
    assert all(0.0 < cut.share < 1.0 for cut in written.cuts.values())
    large, written = exported(model, base, folder, tmp_path / "large.gguf", rank=8)
    assert {tensor.shape for name, tensor in tensors(large).items() if name.endswith("lora_a")} == {(8, 16)}
    assert all(cut.lost == 0.0 for cut in written.cuts.values())


def test_same_bytes_and_nothing_half_written(build: Any, tmp_path: Path, tiny_base: Any, monkeypatch: Any) -> None:
    model, base = tiny_base("llama")
    folder = build.adapter_folder(model, tmp_path / "in", targets=["v_proj"])
    one, _ = exported(model, base, folder, tmp_path / "out/one.gguf")
    two, _ = exported(model, base, folder, tmp_path / "out/two.gguf")
    assert one.read_bytes() == two.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    with pytest.raises(OSError, match="disk full"):
        exported(model, base, folder, tmp_path / "out/three.gguf")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["one.gguf", "two.gguf"]


def base_file(path: Path, model: Any, **changes: Any) -> Path:
    """Header and two tensors of a GGUF base."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, shape in {"blk.0.attn_q.weight": (16, 16), "blk.0.attn_k.weight": (8, 16), **changes}.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_base_that_is_a_gguf_file_is_compared(build: Any, tmp_path: Path) -> None:
    base = GgufBase.of(base_file(tmp_path / "base.gguf", None))
    assert (base.heads, base.kv_heads, base.blocks, base.tied) == (4, 2, 2, True)
    fitting = build.random_adapter({"model.layers.0.self_attn.k_proj": (8, 16)}, name="a", dtype=torch.float32)
    file, factors = tmp_path / "lora.gguf", fitting.factors("model.layers.0.self_attn.k_proj")
    write_gguf(file, fitting, base)
    found = tensors(file)
    torch.testing.assert_close(as_transformers(found["blk.0.attn_k.weight.lora_b"], 2), factors.b)
    for module, shape in (("model.layers.0.self_attn.q_proj", (16, 12)), ("model.layers.1.self_attn.q_proj", (16, 16))):
        with pytest.raises(ConversionError, match="trained on another base"):
            write_gguf(file, build.random_adapter({module: shape}, name="a"), base)


def test_what_cannot_be_held_is_refused(build: Any, tmp_path: Path, tiny_base: Any, monkeypatch: Any) -> None:
    untied = GgufBase.of(tiny_base("llama")[1])
    tied = GgufBase.of(tiny_base("llama", tied=True)[1])
    out = tmp_path / "lora.gguf"
    module = "model.layers.0.self_attn.v_proj"
    biased = Adapter.from_factors({module: build.random_factors(8, 16, 2, bias=True)}, name="a")
    refused = [
        (biased, untied, "LoRA bias"),
        (build.random_adapter({"lm_head": (37, 16)}, name="a"), tied, "one tensor in llama.cpp"),
        (build.random_adapter({"model.vision.0": (8, 8)}, name="a"), untied, "has no name in llama.cpp"),
    ]
    for adapter, base, said in refused:
        with pytest.raises(ConversionError, match=said):
            write_gguf(out, adapter, base)
    plain = build.random_adapter({module: (8, 16)}, name="a")
    with pytest.raises(ConversionError, match="not written to GGUF"):
        write_gguf(out, plain, untied, dtype=torch.float64)
    huge = Adapter.from_factors({module: build.random_factors(8, 16, 2)}, name="a")
    huge.factors(module).b.mul_(1e6)
    with pytest.raises(ConversionError, match=r"which torch\.float16 cannot hold"):
        write_gguf(out, huge, untied, dtype=torch.float16)
    with pytest.raises(ConversionError, match="known are gemma, "):
        GgufBase.of(tiny_base("distilbert")[1])
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(BaseModelError, match="cannot be read as a GGUF file"):
        GgufBase.of(tmp_path / "bad.gguf")
    model = tiny_base("llama")[0]
    folder = build.adapter_folder(model, tmp_path / "in", targets=["v_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ConversionError, match=r"whole weights \(lm_head.weight\)"):
        write_gguf(out, Adapter.load(folder), untied)
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConversionError, match=r"run: pip install 'sst-merge\[gguf\]'"):
        GgufBase.of(tmp_path)
