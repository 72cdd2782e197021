"""Names that mean one layer become one module, or are refused; PEFT says what an output holds."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError
from sst_merge.lora_utils import Adapter, BaseModelIndex, spelled_alike
from sst_merge.merging import MergeSettings, merge, plan_merge
from sst_merge.merging.run import merge_to_folder

PRE = "base_model.model."
Q0 = "model.layers.0.self_attn.q_proj"


def rewrite(folder: Path, change: Callable[[str], str]) -> None:
    """Rename the tensors of an adapter."""
    file = folder / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()}, file)


def llama_folder(build: Any, folder: Path, *, seed: int, change: Callable[[str], str] = str, **options: Any) -> Path:
    build.adapter_folder(build.tiny_model("llama"), folder, seed=seed, targets=["q_proj", "v_proj"], **options)
    rewrite(folder, change)
    return folder


def deltas_in_peft(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """ΔW of every layer that PEFT fills from a folder."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    layers = PeftModel.from_pretrained(copy.deepcopy(model), folder).named_modules()
    found = {n.removeprefix(PRE): m.get_delta_weight("default") for n, m in layers if isinstance(m, LoraLayer)}
    return {name: delta for name, delta in found.items() if bool(delta.any())}


# --- segments of wrappers ---------------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[str], str]] = {
    "one layer compiled": lambda key: key.replace("layers.0.", "layers.0._orig_mod."),
    "model compiled": lambda key: key.replace(PRE, f"{PRE}_orig_mod."),
    "everything compiled": lambda key: f"_orig_mod.{key}",
    "data parallel": lambda key: f"module.{key}",
    "data parallel inside": lambda key: key.replace(PRE, f"{PRE}module."),
    "FSDP": lambda key: f"_fsdp_wrapped_module.{key}".replace("layers.1.", "layers.1._fsdp_wrapped_module."),
    "FSDP and checkpointing": lambda key: re.sub(
        r"(layers\.\d)\.", r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.", key
    ),
    "checkpointed attention": lambda key: key.replace("self_attn.", "self_attn._checkpoint_wrapped_module."),
    "FSDP of every factor": lambda key: key.replace(".weight", "._fsdp_wrapped_module.weight"),
    "Fabric": lambda key: f"_forward_module.{key}",
    "PEFT twice": lambda key: PRE + key,
    "all of it": lambda key: f"module._orig_mod.{PRE}module.{key}".replace("layers.0.", "layers.0._orig_mod.module."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrappers_are_read_over_and_said(build: Any, relative_error: Any, wrapper: str, tmp_path: Path) -> None:
    plain = Adapter.load(llama_folder(build, tmp_path / "plain", seed=1))
    other = Adapter.load(llama_folder(build, tmp_path / "other", seed=2))
    folder = llama_folder(build, tmp_path / "wrapped", seed=2, change=WRAPPED[wrapper])
    wrapped = Adapter.load(folder)
    assert wrapped.modules == plain.modules
    assert plain.notes == ()
    assert all(torch.equal(wrapped.delta(module), other.delta(module)) for module in plain.modules)
    # As it is, PEFT loads little or nothing of it, which is what the note says.
    assert set(deltas_in_peft(build.tiny_model("llama"), folder)) < set(plain.modules)
    assert re.search(
        r"segments of wrappers stand in the names of \d tensors.*PEFT would load none of these", wrapped.notes[0]
    )
    plan = plan_merge([plain, wrapped])
    merge_to_folder(plan, tmp_path / "out")
    found = deltas_in_peft(build.tiny_model("llama"), tmp_path / "out")
    assert set(found) == set(plain.modules)
    for module, delta in found.items():
        assert relative_error(delta, plain.delta(module) + other.delta(module)) <= 1e-6
    assert f"adapter 'wrapped': {wrapped.notes[0]}" in plan.warnings


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_that_were_compiled(build: Any, relative_error: Any, tmp_path: Path) -> None:
    model = build.tiny_model("llama")
    model.model.layers[0] = torch.compile(model.model.layers[0])
    model.model.layers[1].self_attn = torch.compile(model.model.layers[1].self_attn)
    patterns = {"rank_pattern": {r"layers\.0\..*q_proj": 2}, "alpha_pattern": {r"layers.1.*v_proj": 5}}
    adapted = build.peft_model(model, targets=["q_proj", "v_proj"], **patterns)
    adapted.save_pretrained(tmp_path)
    adapter = Adapter.load(tmp_path)
    assert adapter.modules == tuple(f"model.layers.{i}.self_attn.{p}" for i in (0, 1) for p in ("q_proj", "v_proj"))
    for module in adapter.modules:
        wrapped = module.replace("layers.0.", "layers.0._orig_mod.").replace("1.self_attn.", "1.self_attn._orig_mod.")
        expected = adapted.get_submodule(PRE + wrapped).get_delta_weight("default")
        assert relative_error(adapter.delta(module), expected) <= 1e-6


def test_patterns_by_either_name(build: Any, relative_error: Any, tmp_path: Path) -> None:
    # Compiled before PEFT saw it: PEFT asked the patterns by the wrapped name.
    model = build.tiny_model("llama", dtype=torch.float64)
    model.model.layers[0] = torch.compile(model.model.layers[0])
    inner = r"^model\.layers\.0\._orig_mod\.self_attn\.q_proj"
    options = {"rank_pattern": {inner: 2}, "alpha_pattern": {inner: 9}}
    adapted = build.peft_model(model, targets=["q_proj"], **options)
    adapted.save_pretrained(tmp_path / "before")
    expected = adapted.get_submodule(f"{PRE}model.layers.0._orig_mod.self_attn.q_proj").get_delta_weight("default")
    assert relative_error(Adapter.load(tmp_path / "before").delta(Q0), expected) <= 1e-12
    # Wrapped after PEFT: it asked by the plain name, and the rank of the tensors says so.
    plain = r"^model\.layers\.0\.self_attn\.q_proj"
    options = {"rank_pattern": {plain: 2}, "alpha_pattern": {plain: 9}}
    adapted = build.peft_model(build.tiny_model("llama", dtype=torch.float64), targets=["q_proj"], **options)
    adapted.save_pretrained(tmp_path / "after")
    rewrite(tmp_path / "after", WRAPPED["FSDP and checkpointing"])
    expected = adapted.get_submodule(PRE + Q0).get_delta_weight("default")
    assert relative_error(Adapter.load(tmp_path / "after").delta(Q0), expected) <= 1e-12
    # Where only alpha differs, nothing says which.
    llama_folder(build, tmp_path / "open", seed=1, change=WRAPPED["FSDP and checkpointing"], alpha_pattern={plain: 9})
    with pytest.raises(AdapterError, match=r"is stored as .*_fsdp_wrapped_module.*scales \[1\.5, 2\.25\]"):
        Adapter.load(tmp_path / "open")


def test_two_tensors_that_become_one(build: Any, tmp_path: Path) -> None:
    folder = llama_folder(build, tmp_path, seed=1)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    key = f"{PRE}{Q0}.lora_A.weight"
    tensors[key.replace("layers.0.", "layers.0._orig_mod.")] = tensors[key] + 1
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"has lora_A twice, as '.*_orig_mod.*' and as"):
        Adapter.load(folder)


# --- classes of model -------------------------------------------------------------------------------------------------


def without_head(build: Any, architecture: str, folder: Path, *, seed: int) -> Path:
    """An adapter as trained on AutoModel: PEFT's own save for the same model without its head."""
    model, known = build.tiny_model(architecture), build.ARCHITECTURES[architecture]
    options: dict[str, Any] = {"fan_in_fan_out": True} if known.conv1d else {}
    return build.adapter_folder(model.base_model, folder, seed=seed, targets=known.linears, **options)


def with_head(build: Any, architecture: str, folder: Path, *, seed: int) -> Path:
    known = build.ARCHITECTURES[architecture]
    options: dict[str, Any] = {"fan_in_fan_out": True} if known.conv1d else {}
    return build.adapter_folder(build.tiny_model(architecture), folder, seed=seed, targets=known.linears, **options)


@pytest.mark.parametrize("known", [False, True], ids=["no base", "base"])
@pytest.mark.parametrize("first", ["head", "no head"])
def test_with_and_without_a_head(
    build: Any, relative_error: Any, architecture: str, first: str, known: bool, tmp_path: Path
) -> None:
    head = Adapter.load(with_head(build, architecture, tmp_path / "head", seed=1))
    bare = Adapter.load(without_head(build, architecture, tmp_path / "bare", seed=2))
    assert not set(head.modules) & set(bare.modules)
    model = build.tiny_model(architecture)
    adapters = [head, bare] if first == "head" else [bare, head]
    base = BaseModelIndex.of(model) if known else None
    plan = plan_merge(adapters, base=base, settings=MergeSettings(assume_same_base=True))
    merge_to_folder(plan, tmp_path / "out")
    reader = model if first == "head" or known else model.base_model
    found = deltas_in_peft(reader, tmp_path / "out")
    named = head if first == "head" or known else bare
    assert set(found) == set(named.modules)
    for module, one, other in zip(named.modules, head.modules, bare.modules, strict=True):
        change = found[module].T if build.ARCHITECTURES[architecture].conv1d else found[module]
        assert relative_error(change, head.delta(one) + bare.delta(other)) <= 1e-6
    assert sum("is the layer that is called" in warning for warning in plan.warnings) == 1


def test_the_task_that_is_written_decides_the_names(build: Any) -> None:
    bare = build.random_adapter({"layers.0.q": (4, 5)}, name="bare")
    head = replace(build.random_adapter({"model.layers.0.q": (4, 5)}, name="head"), task_type="CAUSAL_LM")
    plan = plan_merge([bare, head])
    assert ([module.name for module in plan.modules], plan.task_type) == (["model.layers.0.q"], "CAUSAL_LM")


VISION = "model.visual.blocks.0.attn.qkv"
TEXT = ["layers.0.mlp.up_proj", "layers.10.self_attn.q_proj", "embed_tokens"]


@pytest.mark.parametrize("one", ["", "model.", "model.language_model.", "language_model.model.", "model.text_model."])
@pytest.mark.parametrize("other", ["", "model.", "model.language_model.", "language_model.model."])
def test_containers_of_a_language_model(build: Any, one: str, other: str) -> None:
    first = build.random_adapter({one + name: (4, 5) for name in TEXT}, name="first", seed=1)
    second = build.random_adapter({other + name: (4, 5) for name in TEXT[:2]}, name="second", seed=2)
    result = merge([first, second])
    assert set(result.adapter.modules) == set(first.modules)
    for name in TEXT[:2]:
        expected = first.delta(one + name) + second.delta(other + name)
        assert torch.allclose(result.adapter.delta(one + name).double(), expected, atol=1e-5)


def test_a_base_names_every_layer(build: Any) -> None:
    new = {"model.language_model.layers.0.q": (4, 5), VISION: (6, 6), "lm_head": (9, 4)}
    old = {
        "language_model.model.layers.0.q": (4, 5),
        VISION.removeprefix("model."): (6, 6),
        "language_model.lm_head": (9, 4),
    }
    adapters = [build.random_adapter(shapes, name=name, seed=1) for name, shapes in (("old", old), ("new", new))]
    renamed, sentences = spelled_alike(adapters, set(new))
    assert [set(adapter.modules) for adapter in renamed] == [set(new), set(new)]
    assert torch.equal(renamed[0].delta("lm_head"), adapters[0].delta("language_model.lm_head"))
    assert len(sentences) == 1
    assert "'old'" in sentences[0]
    # Without one, the parts begin differently, and the names of the rest cannot be told.
    with pytest.raises(AdapterError, match=r"may be one layer of the base under two names.*--base-model"):
        spelled_alike(adapters)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_of_an_older_transformers(build: Any, relative_error: Any, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(text_config=build.tiny_config("llama"), vision_config=vision, image_token_index=36)
    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(config)
    targets = r".*language_model.*v_proj"
    old, new = (build.adapter_folder(model, tmp_path / name, seed=i, targets=targets) for i, name in enumerate("on"))
    rewrite(old, lambda key: key.replace("model.language_model.", "language_model.model."))
    expected = deltas_in_peft(model, old)  # PEFT knows the older names
    assert set(expected) == set(Adapter.load(new).modules)
    base = BaseModelIndex.of(model)
    for adapters in ([old], [old, new]):
        plan = plan_merge([Adapter.load(folder) for folder in adapters], base=base)
        merge_to_folder(plan, tmp_path / "out", force=True)
        found = deltas_in_peft(model, tmp_path / "out")
        assert set(found) == set(expected)
        for module, delta in found.items():
            total = expected[module] + (Adapter.load(new).delta(module) if new in adapters else 0)
            assert relative_error(delta, total) <= 1e-6
    # A model's body under its own name is another thing: its adapters may be meant for it.
    body = build.random_adapter({"layers.0.q": (4, 5)}, name="body")
    assert spelled_alike([body], {"model.layers.0.q"}) == ((body,), ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Two layers in one adapter: to which of them does the other's name belong?
        ({"a.layers.0.q": (4, 5), "b.layers.0.q": (4, 5)}, {"layers.0.q": (4, 5)}),
        # A module that has no counterpart: what would it be called?
        ({"model.layers.0.q": (4, 5)}, {"layers.0.q": (4, 5), "score": (2, 4)}),
        ({"layers.0.q": (4, 5)}, {"model.layers.0.q": (4, 5), "lm_head": (9, 4)}),
    ],
)
def test_what_cannot_be_told_is_refused(build: Any, one: Any, other: Any) -> None:
    adapters = [build.random_adapter(shapes, name=name) for name, shapes in (("one", one), ("other", other))]
    with pytest.raises(AdapterError, match="may be one layer of the base under two names"):
        plan_merge(adapters)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["model.encoder.layers.0.q"], ["model.decoder.layers.0.q"]),
        (["model.layers.0.q"], ["mtp.layers.0.q"]),
        (["model.language_model.layers.0.q"], ["model.vision_tower.layers.0.q"]),
        (["model.layers.0.q"], ["model.layers.1.q"]),
        (["layers.0.q", "model.layers.0.q"], ["layers.0.q"]),
    ],
)
def test_layers_that_are_two_stay_two(build: Any, one: list[str], other: list[str]) -> None:
    adapters = [build.random_adapter(dict.fromkeys(n, (4, 5)), name=str(i)) for i, n in enumerate((one, other))]
    assert spelled_alike(adapters) == (tuple(adapters), ())


def test_a_base_with_both_names_has_two_layers(build: Any) -> None:
    adapters = [build.random_adapter({name: (4, 5)}, name=name) for name in ("model.proj", "proj")]
    assert spelled_alike(adapters, {"model.proj", "proj"})[0] == tuple(adapters)
    assert set(spelled_alike(adapters)[0][1].modules) == {"model.proj"}


def test_other_shapes_under_another_name_are_refused(build: Any) -> None:
    one = build.random_adapter({"model.layers.0.q": (4, 5)}, name="one")
    other = build.random_adapter({"layers.0.q": (5, 5)}, name="other")
    with pytest.raises(AdapterError, match=r"is \(4, 5\) .* in adapter 'one' and \(5, 5\) in adapter 'other'"):
        plan_merge([one, other])


def test_inspection_compares_one_layer_with_itself(build: Any) -> None:
    from sst_merge import inspect_adapters

    one = build.random_adapter({"model.layers.0.q": (4, 5)}, name="one", seed=3)
    same = build.random_adapter({"layers.0.q": (4, 5)}, name="same", seed=3)
    found = inspect_adapters([one, same])
    assert found.pairs[0].total is not None
    assert found.pairs[0].total.cosine == pytest.approx(1)
    assert "is the layer that is called" in found.warnings[-1]
