"""What a merge finds while it reads the adapters, before anything heavy: copies and new words, zeros, NaN."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from sst_merge.cli.main import cli
from sst_merge.lora_utils import Adapter, true_copies
from sst_merge.merging import merge, plan_merge

COPY = "base_model.model.model.embed_tokens.base_layer.weight"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# --- weights that PEFT saved as copies --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build.tiny_model("llama").save_pretrained(folder)
    return folder


def embedding_adapter(build: Any, folder: Path, base: Path, *, rows: int = 0, change: Any = None) -> Path:
    """PEFT's own save of an embedding LoRA, on a vocabulary that grew or was changed before."""
    model = build.tiny_model("llama")
    if rows:
        model.resize_token_embeddings(build.VOCABULARY + rows, mean_resizing=False)
    if change is not None:
        change(model)
    build.adapter_folder(model, folder, targets=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(base)}))
    assert COPY in load_file(folder / "adapter_model.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64])
def test_a_copy_of_the_base_is_left_out(build: Any, base: Path, stored: torch.dtype, tmp_path: Path) -> None:
    folder = embedding_adapter(build, tmp_path / "a", base)
    file = folder / "adapter_model.safetensors"
    save_file({key: tensor.to(stored) for key, tensor in load_file(file).items()}, file)
    code, output = run("merge", "--adapter", folder, "--output", tmp_path / "out")
    assert code == 0, output
    found, loaded = Adapter.load(tmp_path / "out"), Adapter.load(folder)
    assert [weight.key for weight in loaded.whole.values()] == [COPY]
    assert found.modules == loaded.modules
    assert not found.whole
    assert COPY in output


def logits(build: Any, folder: Path, rows: int) -> torch.Tensor:
    """Of a base with other new rows than those that were trained, and the adapter on it."""
    from peft import PeftModel

    model = build.tiny_model("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        model.resize_token_embeddings(build.VOCABULARY + rows, mean_resizing=False)
    tokens = torch.tensor([[5, build.VOCABULARY, build.VOCABULARY + rows - 1, 7]])
    with torch.no_grad():
        return PeftModel.from_pretrained(model, folder)(tokens).logits[..., : build.VOCABULARY]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("known", [True, False])
def test_new_words_are_carried(build: Any, relative_error: Any, base: Path, known: bool, tmp_path: Path) -> None:
    place = base if known else Path("somebody/some-base")
    folder = embedding_adapter(build, tmp_path / "a", place, rows=3)
    code, output = run("merge", "--adapter", folder, "--output", tmp_path / "out")
    assert code == 0, output
    assert "whole weights are written as they are" in output
    assert relative_error(logits(build, tmp_path / "out", 3), logits(build, folder, 3)) <= 1e-5
    # And once more, from what was written.
    assert run("merge", "--adapter", tmp_path / "out", "--output", tmp_path / "again")[0] == 0
    assert relative_error(logits(build, tmp_path / "again", 3), logits(build, folder, 3)) <= 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_that_disagree_are_refused(build: Any, base: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        with torch.no_grad():
            model.model.embed_tokens.weight[[2, 30]] += 0.1

    flags: list[object] = []
    for name, how in (("a", None), ("b", change)):
        flags += ["--adapter", embedding_adapter(build, tmp_path / name, Path("somebody/base"), change=how)]
    code, output = run("merge", *flags, "--output", tmp_path / "out")
    assert code == 2
    assert "different whole weights of 'model.embed_tokens.base_layer'" in output
    assert run("merge", *flags, "--output", tmp_path / "out", "--modules-to-save-from", "b")[0] == 0
    # Where the base tells that one of them is a mere copy, the other one counts.
    code, output = run("merge", *flags, "--output", tmp_path / "known", "--base-model", base)
    assert code == 0, output
    assert len(Adapter.load(tmp_path / "known").whole) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tied_output_layer_is_compared_with_the_embedding(build: Any, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    config = build.tiny_config("llama")
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    folder = build.adapter_folder(model, tmp_path / "a", targets=["embed_tokens", "lm_head"])
    adapter = Adapter.load(folder)
    assert len(adapter.whole) == 2
    assert true_copies(adapter, [tmp_path / "base"]) == tuple(adapter.whole)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.lm_head.base_layer.weight"][3] += 1
    save_file(tensors, file)
    assert true_copies(Adapter.load(folder), [tmp_path / "base"]) == ("model.embed_tokens.base_layer.weight",)


@pytest.mark.newer("transformers", "5.1", "its Phi cannot be built from a plain configuration")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bias_of_the_output_layer_is_a_copy_too(build: Any, tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PhiForCausalLM(PhiConfig(vocab_size=9, **sizes))
    build.randomise(model, seed=0)
    model.save_pretrained(tmp_path / "base")
    adapter = Adapter.load(build.adapter_folder(model, tmp_path / "a", targets=["lm_head", "embed_tokens"]))
    assert "lm_head.base_layer.bias" in adapter.whole
    assert set(true_copies(adapter, [tmp_path / "base"])) == set(adapter.whole)
    build.randomise(model, seed=1, only="lm_head.bias")
    other = Adapter.load(build.adapter_folder(model, tmp_path / "b", targets=["lm_head", "embed_tokens"]))
    assert set(other.whole) - set(true_copies(other, [tmp_path / "base"])) == {"lm_head.base_layer.bias"}


# --- adapters that contribute nothing ---------------------------------------------------------------------------------


def rewrite(folder: Path, part: str, factor: float) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({k: tensor * factor if part in k else tensor for k, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize("what", ["lora_A", "lora_B", "alpha", "alpha of every module"])
def test_an_adapter_of_zeros_is_said(build: Any, what: str, tmp_path: Path) -> None:
    folders = [
        build.adapter_folder(build.tiny_model("llama"), tmp_path / name, seed=seed, targets=["q_proj"])
        for seed, name in enumerate(("fine", "empty"))
    ]
    config = folders[1] / "adapter_config.json"
    if "alpha" in what:
        fields = {"lora_alpha": 0} if what == "alpha" else {"alpha_pattern": {"q_proj": 0}}
        config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))
    else:
        rewrite(folders[1], what, 0.0)
    adapters = [flag for folder in folders for flag in ("--adapter", folder)]
    for more in ((), ("--dry-run",)):
        code, output = run("merge", *adapters, "--output", tmp_path / "out", *more, "--force")
        assert code == 0, output
        assert output.count("adapter 'empty' contributes nothing") == 1
        assert "'fine' contributes" not in output
    assert any("'empty' contributes nothing" in w for w in merge([Adapter.load(f) for f in folders]).report.warnings)


def test_a_bias_alone_is_something(build: Any, tmp_path: Path) -> None:
    folder = build.adapter_folder(build.tiny_model("distilbert"), tmp_path, targets=["q_lin"], lora_bias=True)
    rewrite(folder, "lora_B.weight", 0.0)
    assert plan_merge([Adapter.load(folder)]).read_values() == ()


# --- NaN --------------------------------------------------------------------------------------------------------------


NAN_COMMANDS = {
    "merge": ("merge", "--output", "--method", "sst"),
    "dry run": ("merge", "--output", "--method", "sst", "--dry-run"),
    "fisher": ("fisher", "collect", "--out", "--kind", "harm", "--output", "unused"),
}


@pytest.mark.parametrize("command", NAN_COMMANDS)
def test_nan_is_found_before_the_base_is_loaded(
    build: Any, base: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the base must not be loaded")

    monkeypatch.setattr("sst_merge.cli.inputs.load_model_and_data", fail)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    flags: list[object] = []
    for name, role in (("code", "utility"), ("safety", "safety")):
        folder = build.adapter_folder(build.tiny_model("llama"), tmp_path / name, targets=["q_proj"])
        flags += ["--adapter", f"path={folder},role={role}"]
    rewrite(tmp_path / "safety", "layers.1.self_attn.q_proj.lora_B", float("nan"))
    data = ("--base-model", base, "--data-harm-path", rows, "--data-benign-path", rows)
    words = NAN_COMMANDS[command]
    place = next(index for index, word in enumerate(words) if word in {"--output", "--out"}) + 1
    code, output = run(*words[:place], tmp_path / "out.safetensors", *words[place:], *flags, *data)
    assert code == 2
    assert "layers.1.self_attn.q_proj.lora_B.weight' holds 64 NaN or Inf" in output
    assert not (tmp_path / "out.safetensors").exists()


# --- flags ------------------------------------------------------------------------------------------------------------


def test_a_module_is_left_out_by_name(build: Any, tmp_path: Path) -> None:
    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path / "a", targets=["q_proj", "v_proj"])
    code, output = run("merge", "--adapter", folder, "--output", tmp_path / "out", "--leave-out", "v_proj")
    assert code == 0, output
    assert all(module.endswith("q_proj") for module in Adapter.load(tmp_path / "out").modules)
    code, output = run("merge", "--adapter", folder, "--output", tmp_path / "no", "--leave-out", "k_proj")
    assert code == 2
    assert "no adapter has a module 'k_proj'" in output


@pytest.mark.parametrize("name", ["a,b", "x=1", "name=code,role=safety", "lr=1e-4,r=8", "a,weight=2"])
def test_folders_with_commas_and_equals_signs(
    build: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sst_merge.cli.merge_flags import parse_adapter

    build.random_adapter({"m": (2, 2)}, name="x", dtype=torch.float32).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / name)
    assert parse_adapter(name) == parse_adapter(place) == parse_adapter(f"path={name}") == {"path": place}
    more = {"name": "n", "path": place, "role": "safety", "weight": "0.5"}
    assert parse_adapter(f"name=n,path={place},role=safety,weight=0.5") == more
    assert run("merge", "--adapter", name, "--output", tmp_path / "out")[0] == 0
    assert run("inspect", name)[0] == 0
