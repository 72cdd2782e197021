"""One function decides the class of a base: by the names that adapters use, for whoever checks and whoever runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.data_loader import BaseAccess, empty_model, load_base_model, load_tokenizer
from sst_merge.errors import BaseModelError
from sst_merge.lora_utils import BaseModelIndex

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def gemma3(folder: Path) -> Any:
    """A model of pictures and text, saved as what it is."""
    import transformers

    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=SIZES, vision_config=vision, mm_tokens_per_image=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return transformers


def names(model: torch.nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def test_the_same_base_under_the_names_of_every_class(tmp_path: Path) -> None:
    transformers = gemma3(tmp_path)
    for loader in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        real = getattr(transformers, loader).from_pretrained(tmp_path)
        query = next(name for name in sorted(names(real)) if name.endswith("q_proj") and "vision" not in name)
        built = empty_model(tmp_path, modules=[query], generative=True)
        assert type(built.model) is type(real) and names(built.model) == names(real)
        # What checks the names has the same layers as what runs.
        loaded = load_base_model(str(tmp_path), modules=[query])
        assert type(loaded) is type(real)
        index = BaseModelIndex.load(tmp_path, modules=[query], generative=True)
        assert query in index.modules and names(loaded) <= set(index.modules)
        logits = loaded(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3, dtype=torch.long)).logits
        assert logits.shape == (1, 3, 40)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("layers.0.self_attn.q_proj", "LlamaModel"),
        ("model.layers.0.self_attn.q_proj", "LlamaForCausalLM"),
        ("score", "LlamaForSequenceClassification"),
        ("qa_outputs", "LlamaForQuestionAnswering"),
        ("no.such.layer", "LlamaForCausalLM"),
    ],
)
def test_a_plain_base_takes_the_class_that_has_the_modules(
    build: Any, module: str, expected: str, tmp_path: Path
) -> None:
    config = build.tiny_config("llama")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    assert type(empty_model(tmp_path, modules=[module]).model).__name__ == expected


@pytest.mark.parametrize("architecture", ["LlamaModel", "LlamaForSequenceClassification"])
def test_text_comes_from_a_language_model_whatever_was_saved(build: Any, architecture: str, tmp_path: Path) -> None:
    config = build.tiny_config("llama")
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    built = empty_model(tmp_path, modules=["model.layers.0.mlp.up_proj"], generative=True)
    assert type(built.model).__name__ == "LlamaForCausalLM"


@pytest.fixture
def with_code(tmp_path: Path) -> Iterator[Path]:
    """A folder whose configuration, model and tokenizer are Python files that leave a trace when they run."""
    trace = f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\n"
    folder = tmp_path / "code"
    folder.mkdir()
    auto = {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "architectures": ["M"], "auto_map": auto}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["c.T", None]}}))
    (folder / "c.py").write_text(
        trace + "from transformers import PretrainedConfig\nclass C(PretrainedConfig): model_type = 'own'\n"
    )
    yield folder


def test_code_of_a_base_never_runs_and_nothing_is_asked(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    for work in (
        lambda: BaseModelIndex.load(with_code),
        lambda: load_base_model(str(with_code)),
        lambda: load_base_model(str(with_code), modules=["x"]),
        lambda: load_tokenizer(str(with_code)),
    ):
        with pytest.raises(BaseModelError, match="--trust-remote-code"):
            work()
    assert not (tmp_path / "EXECUTED").exists()


def test_code_of_a_base_runs_where_it_is_trusted(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(BaseModelError) as caught:  # there is no model in it
        BaseModelIndex.load(with_code, access=BaseAccess(trust_remote_code=True))
    assert "--trust-remote-code" not in str(caught.value)
    assert (tmp_path / "EXECUTED").exists()


def test_pickled_weights_need_a_flag(build: Any, tmp_path: Path) -> None:
    model = build.tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"pickles can run code and are read only with --allow-pickle"):
        load_base_model(str(tmp_path))
    loaded = load_base_model(str(tmp_path), access=BaseAccess(allow_pickle=True))
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


def test_a_revision_is_for_hub_ids_alone(tmp_path: Path) -> None:
    access = BaseAccess(revision="v1")
    assert access.of("org/name") == {"trust_remote_code": False, "revision": "v1"}
    assert access.of(tmp_path) == {"trust_remote_code": False}
    assert access.of_weights("org/name")["use_safetensors"] is True
