"""What Adapter.save writes: PEFT, a vLLM-like reader and Adapter.load see the same ΔW; all or nothing on disk."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge.errors import AdapterError, OutputExistsError
from sst_merge.files import atomic_folder
from sst_merge.lora_utils import Adapter, EmbeddingKind, LoraFactors, write_adapter


def simple_reader(folder: Path) -> dict[str, Tensor]:
    """ΔW as a reader computes it that knows one scale alpha/r and no patterns, as vLLM's does."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert not config["use_dora"] and not config["modules_to_save"] and config["bias"] == "none"
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    tensors = load_file(folder / "adapter_model.safetensors")
    deltas = {}
    for key, a in tensors.items():
        for a_end, b_end in (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")):
            if key.endswith(a_end):
                stem = key.removesuffix(a_end)
                module = stem.removeprefix("base_model.model.").removesuffix(".")
                assert a.shape[0] <= config["r"]
                deltas[module] = scale * tensors[stem + b_end].double() @ a.double()
    return deltas


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_round_trip_through_peft(
    build: Any, relative_error: Any, variant: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = build.tiny_model(architecture)
    adapter = Adapter.load(build.adapter_folder(model, tmp_path / "in", **variant))
    out = adapter.save(tmp_path / "out")
    by_hand = build.logits(build.add_deltas(model, adapter))
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), out).eval()
    assert relative_error(build.logits(loaded), by_hand) <= 1e-5
    assert relative_error(build.logits(model), by_hand) > 1e-3
    original = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "in").eval()
    assert relative_error(build.logits(original), by_hand) <= 1e-5
    again = Adapter.load(out)
    assert again.modules == adapter.modules
    simple = simple_reader(out)
    largest = max(adapter.rank(module) for module in adapter.modules)
    for module in adapter.modules:
        assert again.rank(module) == largest
        assert relative_error(again.delta(module), adapter.delta(module, dtype=torch.float64)) <= 1e-6
        assert relative_error(simple[module], adapter.delta(module, dtype=torch.float64)) <= 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("flag", [True, False])
def test_peft_corrects_fan_in_fan_out_layer_by_layer(
    build: Any, relative_error: Any, flag: bool, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = build.tiny_model("gpt2")
    adapter = Adapter.load(
        build.adapter_folder(model, tmp_path / "in", targets=["c_attn", "lm_head"], fan_in_fan_out=flag)
    )
    out = adapter.save(tmp_path / "out")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), out).eval()
    assert relative_error(build.logits(loaded), build.logits(build.add_deltas(model, adapter))) <= 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bias_on_some_modules_only(build: Any, relative_error: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    model = build.tiny_model("distilbert")
    modules = [f"distilbert.transformer.layer.{i}.attention.q_lin" for i in range(2)]
    factors = {
        m: build.random_factors(16, 16, 2 + i, seed=i, bias=i == 1).to(dtype=torch.float32)
        for i, m in enumerate(modules)
    }
    adapter = Adapter.from_factors(factors, name="some")
    out = adapter.save(tmp_path / "out")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), out).eval()
    assert relative_error(build.logits(loaded), build.logits(build.add_deltas(model, adapter))) <= 1e-5
    bias = Adapter.load(out).factors(modules[0]).bias_delta()
    assert bias is not None and not bias.any()


def test_full_names_are_told_apart_although_peft_matches_suffixes(build: Any, tmp_path: Path) -> None:
    from peft.utils.other import get_pattern_key

    ranks = {"proj": 2, "a.proj": 5, "b.proj": 3, "b1proj": 5}
    adapter = Adapter.from_factors({m: build.random_factors(6, 7, r) for m, r in ranks.items()}, name="suffixes")
    out = adapter.save(tmp_path / "out", ranks="pattern")
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"]
    for module, rank in ranks.items():
        key = get_pattern_key(config["rank_pattern"].keys(), module)
        assert config["rank_pattern"].get(key, config["r"]) == rank
        assert torch.equal(Adapter.load(out).delta(module), adapter.delta(module))


def test_safetensors_reads_the_streamed_file_and_bytes_repeat(build: Any, tmp_path: Path) -> None:
    adapter = build.random_adapter(
        {"a.0.x": (5, 3), "a.10.x": (4, 6), "a.2.x": (1, 1)}, name="three", dtype=torch.float32
    )
    assert adapter.modules == ("a.0.x", "a.2.x", "a.10.x")
    first, second = adapter.save(tmp_path / "1"), adapter.save(tmp_path / "2")
    assert Adapter.load(first).modules == adapter.modules
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(first / "adapter_model.safetensors")
    for module in adapter.modules:
        factors = adapter.factors(module)
        assert torch.equal(tensors[f"base_model.model.{module}.lora_A.weight"], factors.a)
        assert torch.equal(tensors[f"base_model.model.{module}.lora_B.weight"], factors.b)
    from safetensors import safe_open

    with safe_open(first / "adapter_model.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_rounded_once(build: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = build.random_adapter({"x": (5, 3)}, name="x")
    tensors = load_file(adapter.save(tmp_path / "out", dtype=dtype) / "adapter_model.safetensors")
    assert torch.equal(tensors["base_model.model.x.lora_A.weight"], adapter.factors("x").a.to(dtype))


@settings(max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    biased=st.integers(0, 15),
)
def test_any_shapes_survive(
    build: Any,
    shapes: list[tuple[int, int, int]],
    dtype: torch.dtype,
    biased: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    factors = {
        f"layers.{i}.proj": build.random_factors(d_out, d_in, rank, seed=i, bias=bool(biased >> i & 1))
        for i, (d_out, d_in, rank) in enumerate(shapes)
    }
    adapter = Adapter.from_factors(factors, name="any")
    out = adapter.save(tmp_path_factory.mktemp("any") / "out", dtype=dtype)
    loaded = Adapter.load(out)
    loaded.check_values()
    assert loaded.modules == adapter.modules
    for module, factor in factors.items():
        b, a = factor.b.to(dtype).double(), factor.a[:, : factor.d_in].to(dtype).double()
        torch.testing.assert_close(loaded.delta(module, dtype=torch.float64), b @ a, rtol=1e-12, atol=1e-12)
        shift, expected = loaded.factors(module, dtype=torch.float64).bias_delta(), factor.bias_delta()
        if expected is None:
            assert shift is None or not shift.any()
        else:
            assert shift is not None
            torch.testing.assert_close(shift, expected.to(dtype).double(), rtol=1e-12, atol=1e-12)


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def adapter(b: float, a: float) -> Adapter:
        return Adapter.from_factors({"x": LoraFactors(torch.full((2, 1), b), torch.full((1, 2), a))}, name="x")

    with pytest.raises(AdapterError, match=r"x\.lora_B\.weight' reaches 1e\+05, more than torch\.float16"):
        adapter(1e5, 1.0).save(tmp_path / "out", dtype=torch.float16)
    with pytest.raises(AdapterError, match=r"lora_A\.weight' vanishes in torch\.float16"):
        adapter(1.0, 1e-9).save(tmp_path / "out", dtype=torch.float16)
    # What is advised holds the value.
    wide = Adapter.from_factors(
        {"x": LoraFactors(torch.full((2, 1), 1e60, dtype=torch.float64), torch.ones(1, 2).double())}, name="x"
    )
    with pytest.raises(AdapterError, match=r"more than torch\.bfloat16 can hold \(.*\); write float64 instead"):
        wide.save(tmp_path / "out", dtype=torch.bfloat16)
    with pytest.raises(AdapterError, match=r"; write bfloat16 or float32 or float64 instead"):
        adapter(1e5, 1.0).save(tmp_path / "out", dtype=torch.float16)
    with pytest.raises(AdapterError, match="holds NaN or Inf"):
        adapter(math.nan, 1.0).save(tmp_path / "out")
    with pytest.raises(AdapterError, match=r"torch\.int8; choose one of"):
        adapter(1.0, 1.0).save(tmp_path / "out", dtype=torch.int8)
    assert list(tmp_path.iterdir()) == []


def test_what_peft_cannot_hold_is_refused(build: Any, tmp_path: Path) -> None:
    embedding = LoraFactors(torch.ones(3, 1), torch.ones(1, 5), EmbeddingKind())
    biased = build.random_factors(4, 4, 2, bias=True, dtype=torch.float32)
    options = {"base_model": None, "task_type": None}
    with pytest.raises(AdapterError, match="'e' is an embedding and 'x' has a LoRA bias"):
        write_adapter(tmp_path / "out", [("e", embedding), ("x", biased)], **options)
    with pytest.raises(AdapterError, match="'x' occurs twice"):
        write_adapter(tmp_path / "out", [("x", biased), ("x", biased)], **options)
    with pytest.raises(AdapterError, match="no modules to write"):
        write_adapter(tmp_path / "out", [], **options)
    with pytest.raises(AdapterError, match=r"'y' has type torch\.float64, the modules before it torch\.float32"):
        write_adapter(tmp_path / "out", [("x", biased), ("y", biased.to(dtype=torch.float64))], **options)
    for name in ("../escape.txt", "adapter_config.json"):
        with pytest.raises(AdapterError, match="extra file"):
            write_adapter(tmp_path / "out", [("x", biased)], extra_files={name: ""}, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("crash", [RuntimeError, KeyboardInterrupt])
def test_a_crash_while_writing_leaves_nothing(build: Any, crash: type[BaseException], tmp_path: Path) -> None:
    def modules() -> Iterator[tuple[str, LoraFactors]]:
        yield "x", build.random_factors(4, 4, 2)
        raise crash("in the middle")

    with pytest.raises(crash):
        write_adapter(tmp_path / "out", modules(), base_model=None, task_type=None)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_replacing_keeps_the_old(build: Any, tmp_path: Path) -> None:
    old = build.random_adapter({"x": (3, 3)}, name="old").save(tmp_path / "out")
    before = Adapter.load(old).fingerprints()
    with pytest.raises(RuntimeError), atomic_folder(old, force=True) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert Adapter.load(old).fingerprints() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_is_replaced_only_on_demand(build: Any, tmp_path: Path) -> None:
    old, new = build.random_adapter({"x": (3, 3)}, name="old"), build.random_adapter({"y": (2, 2)}, name="new")
    out = old.save(tmp_path / "deep" / "out", extra_files={"old.txt": "old"})
    with pytest.raises(OutputExistsError, match=r"exists already.*--force"):
        new.save(out)
    assert Adapter.load(out).modules == ("x",)
    new.save(out, force=True, extra_files={"README.md": "# new\n"})
    assert Adapter.load(out).modules == ("y",)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_adapter_may_replace_itself(build: Any, tmp_path: Path) -> None:
    build.random_adapter({"x": (3, 4)}, name="x").save(tmp_path / "out")
    adapter = Adapter.load(tmp_path / "out")
    delta = adapter.delta("x")
    adapter.save(tmp_path / "out", force=True)
    assert torch.equal(Adapter.load(tmp_path / "out").delta("x"), delta)


def test_force_never_replaces_a_file_or_the_current_folder(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = build.random_adapter({"x": (3, 3)}, name="x")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="not a plain folder"):
        adapter.save(tmp_path / "file", force=True)
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inner")
    with pytest.raises(OutputExistsError, match="holds the current folder"):
        adapter.save(tmp_path / "here", force=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "here" / "inner").is_dir()


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), atomic_folder(tmp_path / "out", force=False):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_the_result_has_the_permissions_of_a_plain_folder(build: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    out = build.random_adapter({"x": (3, 3)}, name="x").save(tmp_path / "out")
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_check_values_names_file_and_tensor(build: Any, tmp_path: Path) -> None:
    out = build.random_adapter({"x": (3, 3)}, name="x").save(tmp_path / "out")
    tensors = load_file(out / "adapter_model.safetensors")
    tensors["base_model.model.x.lora_A.weight"][1, 2] = math.inf
    save_file(tensors, out / "adapter_model.safetensors")
    with pytest.raises(
        AdapterError, match=r"adapter_model\.safetensors: tensor .*x\.lora_A\.weight' holds 1 NaN or Inf"
    ):
        Adapter.load(out).check_values()
    bad = LoraFactors(torch.full((2, 1), math.nan), torch.ones(1, 2))
    with pytest.raises(AdapterError, match="adapter 'm': B of module 'y' holds 2 NaN or Inf"):
        Adapter.from_factors({"y": bad}, name="m").check_values()
