"""What cannot be represented exactly, or does not fit, is refused with file, field, found, expected and way out."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError, BaseModelError
from sst_merge.lora_utils import (
    Adapter,
    BaseModelIndex,
    Conv1DKind,
    EmbeddingKind,
    LinearKind,
    LoraFactors,
    check_against_base,
    check_compatible,
)

PRE = "base_model.model."
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(build: Any, tmp_path: Path) -> Path:
    return build.random_adapter({"m.q": (4, 6), "m.v": (5, 6)}, name="x", dtype=torch.float32).save(
        tmp_path / "adapter"
    )


def set_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def edit_tensors(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "OSF"}, "peft_type is 'OSF', expected 'LORA' or one of LOHA, .*sst-merge extract"),
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'.*it has no ΔW of the weights"),
        ({"use_dora": True}, r"use_dora is True, but module .m\.q. has no lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "no whole weight of any of them.*--drop-modules-to-save"),
        (
            {"target_parameters": ["m.q"], "target_modules": ["v"]},
            "'m.q' is none of target_modules.*target_parameters.*fused experts",
        ),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices.*rows of the embedding"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens.*no fixed ΔW"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config.*truncates the base weight"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"megatron_config": {"x": 1}}, "megatron_config"),
        ({"bias": ["all"]}, r"bias is \['all'\], expected text or null"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16'.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"init_lora_weights": "loftq"}, "loftq.*extract the difference"),
        ({"use_magic": True}, "use_magic is True, a field that this version does not know"),
        ({"magic_config": {"n": 2}}, "magic_config"),
        ({"r": 0}, "r is 0, expected a whole number of at least 1"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": None}, "lora_alpha is None, expected a finite number"),
        ({"r": 4, "lora_alpha": 4}, r"'m\.q' has A \(3, 6\) and B \(4, 3\).*say rank 4"),
        ({"rank_pattern": {"v": 2}}, r"'m\.v' has A \(3, 6\).*say rank 2"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern has the key '\(', which cannot be tried \(.*give names of modules"),
        ({"alpha_pattern": [1]}, "alpha_pattern is \\[1\\], expected an object"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', expected true or false"),
        ({"lora_bias": True}, r"'m\.q' has lora_A and lora_B, expected lora_A and lora_B and lora_B\.bias"),
    ],
)
def test_configurations(folder: Path, fields: dict[str, Any], message: str) -> None:
    set_config(folder, **fields)
    with pytest.raises(AdapterError, match=message) as caught:
        Adapter.load(folder)
    assert str(folder) in str(caught.value)


def test_unknown_fields_that_are_off_or_numbers_pass(folder: Path) -> None:
    set_config(folder, use_magic=False, magic_config=None, magic_list=[], magic_rate=0.5, magic_size=16)
    assert Adapter.load(folder).modules == ("m.q", "m.v")


def test_every_field_of_the_installed_peft_is_judged(folder: Path) -> None:
    from peft import LoraConfig

    # Defaults pass, and every switch that PEFT itself calls a LoRA variant is refused unless listed here.
    set_config(folder, **{k: v for k, v in LoraConfig().to_dict().items() if k not in {"r", "lora_alpha", "peft_type"}})
    Adapter.load(folder)
    exact = {"velora_config", "monteclora_config", "use_dora"}  # the last by conversion
    for field in dataclasses.fields(LoraConfig):
        if field.metadata.get("is_lora_variant") and field.name not in exact:
            set_config(folder, **{field.name: {"some": "value"}})
            with pytest.raises(AdapterError, match=f"{field.name} is .*expected it to be off"):
                Adapter.load(folder)
            set_config(folder, **{field.name: None})


def rename(old: str, new: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def add(key: str, tensor: torch.Tensor) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({key: tensor})


A, B = f"{PRE}m.q.lora_A.weight", f"{PRE}m.q.lora_B.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.clear(), "holds no tensors"),
        (lambda tensors: tensors.pop(B), r"'m\.q' has lora_A, expected lora_A and lora_B"),
        (lambda tensors: tensors.pop(A), r"'m\.q' has lora_B, expected lora_A and lora_B"),
        (rename(A, "m.q.lora_A.weight"), "lacks the prefix 'base_model.model.', under which PEFT looks"),
        (rename(A, f"{PRE}m.q.lora_A"), "is not a key of PEFT"),
        (rename(A, f"{PRE}m.q.lora_A.a.b.weight"), "is not a key of PEFT"),
        (rename(A, f"{PRE}m.q.lora_embedding_A"), "has lora_B and lora_embedding_A, expected"),
        (add(f"{PRE}m.q.lora_A.other.weight", torch.ones(3, 6)), "has lora_A twice"),
        (add(f"{PRE}m.q.lora_A.bias", torch.ones(3)), "is not a key of PEFT"),
        (add(f"{PRE}m.q.lora_B.bias", torch.ones(4)), "has lora_A and lora_B and lora_B.bias, expected"),
        (add(f"{PRE}moe.experts.base_layer.lora_A.weight", torch.ones(3, 6)), "LoRA inside a LoRA"),
        (add(f"{PRE}m.q.lora_magnitude_vector", torch.ones(4)), "not a plain LoRA factor but a DoRA magnitude"),
        (add(f"{PRE}m.q.lora_diag", torch.ones(4)), "not a plain LoRA factor"),
        (add(f"{PRE}e.token_adapter.trainable_tokens_delta", torch.ones(4)), "not a plain LoRA factor"),
        (add(f"{PRE}lm_head.base_layer.weight", torch.ones(4, 4)), "belongs to no adapted module"),
        (add(A, torch.ones(3, 6, dtype=torch.int8)), "has type I8, expected one of F16"),
        (add(A, torch.ones(3, 6).to(torch.float8_e4m3fn)), "has type F8_E4M3"),
        (add(A, torch.ones(3, 6, 1, 1)), "expected matrices or an ordinary convolution"),
        (add(A, torch.ones(18)), "expected matrices"),
        (add(A, torch.ones(2, 6)), "say rank 3"),
        (add(A, torch.ones(3, 0)), "empty"),
    ],
)
def test_tensors(folder: Path, edit: Callable[[Tensors], Any], message: str) -> None:
    edit_tensors(folder, edit)
    with pytest.raises(AdapterError, match=message) as caught:
        Adapter.load(folder)
    assert "adapter_model.safetensors" in str(caught.value)


def test_two_adapters_in_one_file(folder: Path) -> None:
    edit_tensors(folder, rename(A, f"{PRE}m.q.lora_A.one.weight"))
    edit_tensors(folder, rename(B, f"{PRE}m.q.lora_B.two.weight"))
    with pytest.raises(AdapterError, match=r"holds adapters \['', 'one', 'two'\]; expected one"):
        Adapter.load(folder)


def test_bias_shape(folder: Path) -> None:
    set_config(folder, lora_bias=True)
    edit_tensors(folder, add(f"{PRE}m.q.lora_B.bias", torch.ones(3)))
    edit_tensors(folder, add(f"{PRE}m.v.lora_B.bias", torch.ones(5)))
    with pytest.raises(AdapterError, match=r"lora_B\.bias' has shape \(3,\), expected \(4,\)"):
        Adapter.load(folder)


def test_missing_and_broken_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such folder"):
        Adapter.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"no adapter_config.json"):
        Adapter.load(tmp_path / "empty")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(AdapterError, match="no readable safetensors file"):
        Adapter.load(folder)
    weights.write_bytes(b"")
    with pytest.raises(AdapterError, match="no readable safetensors file"):
        Adapter.load(folder)
    weights.unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        Adapter.load(folder)
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterError, match=r"found adapter_model\.bin.*--allow-pickle.*safe_serialization=True"):
        Adapter.load(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="not valid JSON"):
        Adapter.load(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(AdapterError, match="found list, expected a JSON object"):
        Adapter.load(folder)


def test_a_file_that_vanishes_later(folder: Path) -> None:
    adapter = Adapter.load(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"cannot read .*any more"):
        adapter.factors("m.q")


@pytest.mark.newer("peft", "0.21", "with bias='lora_only' its files hold no biases")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_peft_folders_of_refused_kinds(build: Any, tmp_path: Path) -> None:
    model = build.tiny_model("llama")
    dora = build.adapter_folder(model, tmp_path / "dora", targets=["q_proj"], use_dora=True)
    with pytest.raises(AdapterError, match="DoRA"):
        Adapter.load(dora)
    # Even with the switch wiped out, the magnitudes give it away.
    set_config(dora, use_dora=False)
    with pytest.raises(AdapterError, match="lora_magnitude_vector"):
        Adapter.load(dora)
    saved = build.adapter_folder(model, tmp_path / "saved", targets=["q_proj"], modules_to_save=["lm_head"])
    dropped = Adapter.load(saved, drop_modules_to_save=True)
    assert dropped.left_out == (f"{PRE}lm_head.weight",)
    plain = build.adapter_folder(model, tmp_path / "plain", targets=["q_proj"])
    for module in Adapter.load(plain).modules:
        assert torch.equal(dropped.delta(module), Adapter.load(plain).delta(module))
    biased = build.adapter_folder(build.tiny_model("gpt2"), tmp_path / "bias", targets=["c_attn"], bias="lora_only")
    with pytest.raises(AdapterError, match="bias is 'lora_only'"):
        Adapter.load(biased)


def test_attributes(build: Any) -> None:
    factors = {"x": build.random_factors(3, 3, 1)}
    with pytest.raises(AdapterError, match="role is 'skill', expected one of"):
        Adapter.from_factors(factors, name="a", role="skill")  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="weight is nan"):
        Adapter.from_factors(factors, name="a", weight=float("nan"))
    with pytest.raises(AdapterError, match="no modules"):
        Adapter.from_factors({}, name="a")
    with pytest.raises(AdapterError, match="adapter 'a' does not touch module 'y'"):
        Adapter.from_factors(factors, name="a").factors("y")


# --- against the base -------------------------------------------------------------------------------------------


def test_index_from_config_equals_the_real_model(build: Any, architecture: str, tmp_path: Path) -> None:
    model = build.tiny_model(architecture)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    index = BaseModelIndex.load(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    layers = dict(model.named_modules())
    assert {name for name, layer in layers.items() if getattr(layer, "weight", None) is not None} >= set(index.modules)
    for name, shape in index.modules.items():
        weight = layers[name].weight
        assert tuple(weight.shape) == (
            (shape.d_out, shape.d_in) if shape.kind == LinearKind() else (shape.d_in, shape.d_out)
        )
        assert shape.bias == (getattr(layers[name], "bias", None) is not None)
    arch = build.ARCHITECTURES[architecture]
    assert index.modules[arch.embedding].kind == EmbeddingKind()
    linears = [shape.kind for name, shape in index.modules.items() if name.endswith(arch.linears)]
    assert len(linears) == 2 * len(arch.linears)
    assert set(linears) == {Conv1DKind() if arch.conv1d else LinearKind()}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_adapters_fit_their_base(build: Any, architecture: str, tmp_path: Path) -> None:
    arch, model = build.ARCHITECTURES[architecture], build.tiny_model(architecture)
    targets = [*arch.linears, arch.embedding, arch.head]
    adapter = Adapter.load(build.adapter_folder(model, tmp_path, targets=targets))
    index = BaseModelIndex.of(model)
    check_against_base(adapter, index)
    right = adapter.with_kinds(index.kinds)
    for module in right.modules:
        weight = model.get_submodule(module).weight
        assert right.factors(module).stored_delta().shape == weight.shape
        assert right.kind(module) == index.modules[module].kind


def test_the_task_decides_the_head(build: Any, tmp_path: Path) -> None:
    config = build.tiny_config("distilbert")
    config.architectures = ["DistilBertModel"]
    config.save_pretrained(tmp_path)
    assert "transformer.layer.0.attention.q_lin" in BaseModelIndex.load(tmp_path).modules
    classifier = BaseModelIndex.load(tmp_path, task_type="SEQ_CLS").modules
    assert {"distilbert.transformer.layer.0.attention.q_lin", "pre_classifier"} <= set(classifier)
    with pytest.raises(BaseModelError, match=r"cannot build .*DistilBertModel.* for task 'SEQ_2_SEQ_LM'"):
        BaseModelIndex.load(tmp_path, task_type="SEQ_2_SEQ_LM")


def test_adapters_that_do_not_fit(build: Any, tmp_path: Path) -> None:
    config = build.tiny_config("llama")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    index = BaseModelIndex.load(tmp_path)
    q = "model.layers.0.self_attn.q_proj"

    def adapter(module: str, factors: LoraFactors) -> Adapter:
        return Adapter.from_factors({module: factors}, name="a")

    check_against_base(adapter(q, build.random_factors(16, 16, 99)), index)
    with pytest.raises(
        BaseModelError, match=r"'layers\.0\.self_attn\.q_proj' matches no layer.*nearest.*'model\.layers\.0"
    ):
        check_against_base(adapter(q.removeprefix("model."), build.random_factors(16, 16, 2)), index)
    with pytest.raises(BaseModelError, match=r"'model\.layers\.0\.self_attn' is a LlamaAttention"):
        check_against_base(adapter(q.removesuffix(".q_proj"), build.random_factors(16, 16, 2)), index)
    with pytest.raises(BaseModelError, match=r"is \(8, 16\) \(d_out, d_in\), the base .* has \(16, 16\)"):
        check_against_base(adapter(q, build.random_factors(8, 16, 2)), index)
    square = build.random_factors(16, 16, 2)
    with pytest.raises(BaseModelError, match=r"fan_in_fan_out is True, but all its layers .* linear.*to False"):
        check_against_base(adapter(q, LoraFactors(square.b, square.a, Conv1DKind())), index)
    with pytest.raises(BaseModelError, match="of kind embedding"):
        check_against_base(adapter(q, LoraFactors(square.b, square.a, EmbeddingKind())), index)
    with pytest.raises(AdapterError, match="is embedding in the adapter and linear in the base"):
        adapter(q, LoraFactors(square.b, square.a, EmbeddingKind())).with_kinds(index.kinds)


def test_bases_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no config.json"):
        BaseModelIndex.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="found a PEFT adapter, expected the folder of a base model"):
        BaseModelIndex.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(BaseModelError, match="no usable configuration"):
        BaseModelIndex.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="no usable configuration"):
        BaseModelIndex.load(tmp_path)


def test_adapters_that_do_not_belong_together(build: Any) -> None:
    def adapter(name: str, base: str | None, factors: LoraFactors) -> Adapter:
        return Adapter.from_factors({"x": factors}, name=name, base_model=base)

    one = adapter("one", "llama", build.random_factors(4, 5, 2))
    check_compatible([
        one,
        adapter("two", "llama", build.random_factors(4, 5, 7)),
        adapter("three", None, build.random_factors(4, 5, 1)),
    ])
    other = adapter("other", "mistral", build.random_factors(4, 5, 2))
    with pytest.raises(
        AdapterError, match=r"'one' has base 'llama', adapter 'other' has 'mistral'.*--assume-same-base"
    ):
        check_compatible([one, other])
    check_compatible([one, other], assume_same_base=True)
    with pytest.raises(AdapterError, match=r"'x' is \(4, 5\) .* in adapter 'one' and \(5, 5\) in adapter 'two'"):
        check_compatible([one, adapter("two", "llama", build.random_factors(5, 5, 2))])
    turned = build.random_factors(4, 5, 2)
    with pytest.raises(AdapterError, match="'x' is linear in adapter 'one' and conv1d in adapter 'two'"):
        check_compatible([one, adapter("two", "llama", LoraFactors(turned.b, turned.a, Conv1DKind()))])
