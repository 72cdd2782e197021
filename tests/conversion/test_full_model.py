"""Base + ΔW as a model of its own gives what base with adapter gives, by PEFT; nothing half-written is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge.conversion import check_full_model, full_model, full_plan, write_full_model
from sst_merge.errors import BaseModelError, ConversionError, OutputExistsError
from sst_merge.lora_utils import Adapter

CASES = {
    "llama": ("llama", False, {"targets": ["q_proj", "v_proj", "down_proj", "lm_head", "embed_tokens"]}),
    "llama, tied": ("llama", True, {"targets": ["q_proj", "o_proj"], "use_rslora": True}),
    "llama, tied, embedding": ("llama", True, {"targets": ["k_proj", "embed_tokens"]}),
    "llama, tied, head": ("llama", True, {"targets": ["k_proj", "lm_head"]}),
    "llama, whole head": ("llama", False, {"targets": ["k_proj"], "modules_to_save": ["lm_head"]}),
    "llama, tied, whole head": ("llama", True, {"targets": ["k_proj"], "modules_to_save": ["lm_head"]}),
    "gpt2": ("gpt2", True, {"targets": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    "gpt2, biases": ("gpt2", False, {"targets": ["c_attn", "c_fc"], "fan_in_fan_out": True, "lora_bias": True}),
    "gpt2, tied, embedding": ("gpt2", True, {"targets": ["c_attn", "wte"], "fan_in_fan_out": True}),
}


def stored(folder: Path) -> dict[str, Tensor]:
    return {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_base_with_adapter(
    build: Any, tmp_path: Path, tiny_base: Any, case: str, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    from transformers import AutoModelForCausalLM

    architecture, tied, options = CASES[case]
    model, base = tiny_base(architecture, tied=tied)
    adapted = build.peft_model(model, **options)
    build.randomise(adapted, seed=1, only="modules_to_save.default")
    adapted.save_pretrained(tmp_path / "in")
    written = write_full_model(tmp_path / "out", Adapter.load(tmp_path / "in"), base)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert relative_error(build.logits(loaded.eval()), build.logits(adapted)) < 1e-5
    assert relative_error(build.logits(loaded), build.logits(model)) > 1e-2
    split = case.startswith(("llama, tied, ", "gpt2, tied, "))
    assert bool(written.untied) == split
    assert loaded.config.tie_word_embeddings == (tied and not split)
    before, after = stored(base), stored(tmp_path / "out")
    for name in after.keys() - set(written.changed) - set(written.untied):
        assert torch.equal(after[name], before[name])
    assert written.tensors == len(after)


def test_a_base_saved_without_its_heads_prefix(
    build: Any, tmp_path: Path, tiny_base: Any, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    from transformers import AutoModelForCausalLM

    model, base = tiny_base("gpt2", tied=True)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((base / "config.json").read_text())
    shorter = {key.removeprefix("transformer."): value for key, value in stored(base).items()}
    save_file(shorter, bare / "model.safetensors", metadata={"format": "pt"})
    for targets in (["c_attn"], ["c_attn", "wte"]):
        adapted = build.peft_model(model, targets=targets, fan_in_fan_out=True)
        place = tmp_path / "-".join(targets)
        adapted.save_pretrained(place / "in")
        write_full_model(place / "out", Adapter.load(place / "in"), bare)
        loaded = AutoModelForCausalLM.from_pretrained(place / "out").eval()
        assert relative_error(build.logits(loaded), build.logits(adapted)) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_any_type_rounded_once(build: Any, tmp_path: Path, tiny_base: Any, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    _, base = tiny_base("llama", dtype=torch.bfloat16)
    targets = ["q_proj", "down_proj"]
    adapter = Adapter.load(build.adapter_folder(build.tiny_model("llama"), tmp_path / "in", targets=targets))
    write_full_model(tmp_path / "out", adapter, base, dtype=dtype)
    before, after = stored(base), stored(tmp_path / "out")
    wanted = getattr(torch, dtype)
    for name, tensor in after.items():
        exact = before[name].double()
        if (module := name.removesuffix(".weight")) in adapter:
            exact = exact + adapter.delta(module, dtype=torch.float64)
        assert tensor.dtype == wanted
        # Half a unit in the last place: one rounding; beside it that of the sum itself.
        sums = float(exact.abs().max()) * (1e-15 if dtype == "float64" else 2e-7)
        bound = exact.abs() * torch.finfo(wanted).eps / 2 + sums
        assert bool(((tensor.double() - exact).abs() <= bound).all()), name
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == wanted


def test_each_tensor_keeps_its_type_where_none_is_asked(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    _, base = tiny_base("llama", dtype=torch.bfloat16)
    options = {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}
    adapter = Adapter.load(build.adapter_folder(build.tiny_model("llama"), tmp_path / "in", **options))
    assert check_full_model(adapter, base) == 2 * sum(p.numel() for p in build.tiny_model("llama").parameters())
    write_full_model(tmp_path / "out", adapter, base)
    assert {tensor.dtype for tensor in stored(tmp_path / "out").values()} == {torch.bfloat16}


def test_shards_with_an_index_a_few_rows_at_a_time(
    build: Any,
    tmp_path: Path,
    tiny_base: Any,
    monkeypatch: pytest.MonkeyPatch,
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(full_plan, "_BLOCK", 40)  # two rows of 16
    model, base = tiny_base("llama")
    adapted = build.peft_model(model, targets=["v_proj", "embed_tokens"])
    adapted.save_pretrained(tmp_path / "in")
    seen: list[tuple[str, int, int]] = []
    written = write_full_model(
        tmp_path / "out",
        Adapter.load(tmp_path / "in"),
        base,
        shard_bytes=4000,
        progress=lambda *told: seen.append(told),
    )
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(written.files) == {*index["weight_map"].values(), "model.safetensors.index.json"}
    for shard in set(index["weight_map"].values()):
        with safe_open(tmp_path / "out" / shard, framework="pt") as handle:
            keys = set(handle.keys())
            size = sum(handle.get_tensor(key).nbytes for key in keys)
        assert keys == {key for key, name in index["weight_map"].items() if name == shard}
        assert size <= 4000 or len(keys) == 1
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(tmp_path / "out").values())
    assert seen == [("tensors", place + 1, len(seen)) for place in range(written.tensors)]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert relative_error(build.logits(loaded), build.logits(adapted)) < 1e-5
    again = write_full_model(tmp_path / "again", Adapter.load(tmp_path / "in"), tmp_path / "out")
    assert again.files == ("model.safetensors",)  # from a sharded base


def test_tokenizer_and_everything_else_of_the_base_come_along(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    model, original = tiny_base("llama")
    base = tmp_path / "base"
    model.save_pretrained(base)
    for name in ("tokenizer.json", "LICENSE", "vocab.txt", "README.md", "pytorch_model.bin", ".hidden"):
        (base / name).write_text(name)
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tools.jinja").write_text("tools")
    (tmp_path / "own.json").write_text("own")
    adapter = Adapter.load(build.adapter_folder(model, tmp_path / "in", targets=["v_proj"]))
    out = tmp_path / "out"
    write_full_model(
        out, adapter, base, tokenizer={"tokenizer.json": tmp_path / "own.json"}, extra_files={"README.md": "card"}
    )
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == {
        "LICENSE",
        "README.md",
        "additional_chat_templates/tools.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    }
    assert [(out / name).read_text() for name in ("README.md", "tokenizer.json")] == ["card", "own"]
    assert json.loads((out / "config.json").read_text()) == json.loads((original / "config.json").read_text())


def test_what_cannot_be_right_is_refused_and_nothing_is_left(
    build: Any, tmp_path: Path, tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, base = tiny_base("llama")
    out = tmp_path / "place/out"
    adapter = Adapter.load(build.adapter_folder(model, tmp_path / "in", targets=["v_proj"]))
    biased = Adapter.from_factors(
        {"model.layers.0.self_attn.v_proj": build.random_factors(8, 16, 2, bias=True)}, name="biased"
    )
    with pytest.raises(ConversionError, match=r"updates 'model.layers.0.self_attn.v_proj.bias', which the base"):
        write_full_model(out, biased, base)
    other = build.random_adapter({"model.layers.0.self_attn.v_proj": (8, 12)}, name="a")
    with pytest.raises(BaseModelError, match="trained on another base"):
        write_full_model(out, other, base)
    huge = build.random_adapter({"model.layers.0.self_attn.v_proj": (8, 16)}, name="a")
    huge.factors("model.layers.0.self_attn.v_proj").b.mul_(1e6)
    with pytest.raises(ConversionError, match=r"more than torch\.float16 can hold"):
        write_full_model(out, huge, base, dtype="float16")
    assert list((tmp_path / "place").iterdir()) == []
    with pytest.raises(BaseModelError, match="no such folder"):
        write_full_model(out, adapter, "nobody/nothing")
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (quantised / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": torch.ones(16)}, quantised / "model.safetensors")
    with pytest.raises(BaseModelError, match="the base is gptq"):
        write_full_model(out, adapter, quantised)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(full_model, "_copy_rest", full)
    with pytest.raises(OSError, match="disk full"):
        write_full_model(out, adapter, base)
    assert list((tmp_path / "place").iterdir()) == []
    monkeypatch.undo()
    write_full_model(out, adapter, base)
    with pytest.raises(OutputExistsError):
        write_full_model(out, adapter, base)


def test_a_grown_vocabulary_is_another_model(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    _, base = tiny_base("llama")
    grown = build.tiny_model("llama")
    grown.resize_token_embeddings(40)
    folder = build.adapter_folder(grown, tmp_path / "in", targets=["v_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(ConversionError, match="a grown vocabulary or a new head makes another model"):
        write_full_model(tmp_path / "out", Adapter.load(folder), base)
