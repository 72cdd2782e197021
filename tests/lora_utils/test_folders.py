"""Folders that are no PEFT adapter are named by what they are, and what cannot be read can be left out by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError
from sst_merge.lora_utils import Adapter, read_stored_form

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1234\n"
PRE = "base_model.model."


@pytest.fixture
def folder(build: Any, tmp_path: Path) -> Path:
    shapes = {"m.q": (4, 6), "m.v": (5, 6)}
    return build.random_adapter(shapes, name="x", dtype=torch.float32).save(tmp_path / "adapter")


def change(folder: Path, **tensors: torch.Tensor) -> None:
    """Put tensors into a folder's file, under names with ``__`` for dots."""
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), **{PRE + name.replace("__", "."): t for name, t in tensors.items()}}, file)


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        (["checkpoint-500", "checkpoint-1000"], "2 adapters below it: checkpoint-500, checkpoint-1000; give"),
        (["code", "final/safety"], "2 adapters below it: code, final/safety"),
        (
            [f"checkpoint-{i}" for i in range(1, 13)],
            "12 adapters below it: checkpoint-1, checkpoint-2, .*checkpoint-5, ...",
        ),
    ],
)
def test_adapters_below_are_named(folder: Path, tmp_path: Path, places: list[str], shown: str) -> None:
    run = tmp_path / "run"
    for place in places:
        shutil.copytree(folder, run / place)
    (run / "trainer_state.json").write_text("{}")
    with pytest.raises(AdapterError, match=shown) as caught:
        Adapter.load(run)
    assert f"such as {run / places[-1]}" in str(caught.value)
    assert Adapter.load(run / places[-1]).modules == ("m.q", "m.v")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_git_lfs_pointers(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(AdapterError, match=rf"{name}: a git-lfs pointer of \d+ bytes.*git lfs pull"):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapter_model-00001-of-00002.safetensors", "weights are in shards"),
        ("adapter_model.safetensors.index.json", "weights are in shards"),
        ("adapter_model.bin", "a pickle can run code"),
        ("adapters.safetensors", "an mlx-lm adapter"),
        ("lit_model.pth.lora", "LitGPT"),
        ("epoch=3-step=12.ckpt", "Lightning checkpoint.*save_pretrained"),
        ("pytorch_lora_weights.safetensors", "LoRA of diffusers"),
        ("model-00001-of-00004.safetensors", "a whole model, no adapter"),
    ],
)
def test_weights_of_other_kinds(folder: Path, name: str, message: str) -> None:
    (folder / "adapter_model.safetensors").rename(folder / name)
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["checkpoints/last.ckpt", "hparams.yaml"], "last.ckpt: a Lightning checkpoint"),
        (["lit_model.pth", "lit_config.json"], "a LitGPT checkpoint"),
        (["config.json", "model.safetensors"], "a whole model, no adapter"),
        (["adapters.npz"], "an mlx-lm adapter"),
        (["__0_0.distcp", ".metadata"], "in shards; gather it"),
        ([], "expected a folder written by PEFT's save_pretrained"),
    ],
)
def test_folders_without_a_configuration(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(AdapterError, match=f"no adapter_config.json.*{message}"):
        Adapter.load(tmp_path)


def test_mlx_configuration(tmp_path: Path) -> None:
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=r"written by mlx-lm, not by PEFT.*transposed"):
        Adapter.load(tmp_path)


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    with pytest.raises(AdapterError, match="a file; give the folder that holds it"):
        Adapter.load(folder / "adapter_model.safetensors")


def test_fields_of_other_trainers_are_ignored_and_said(folder: Path) -> None:
    file = folder / "adapter_config.json"
    extra = {"lora_dtype": "bf16", "lorap_lr_ratio": 16.0, "swift_type": "LORA", "enable_lora": None}
    file.write_text(json.dumps({**json.loads(file.read_text()), **extra}))
    adapter = Adapter.load(folder)
    assert adapter.notes == (
        "adapter_config.json holds lora_dtype, lorap_lr_ratio, swift_type, which another trainer wrote; ignored, as ΔW "
        "does not depend on it",
    )
    # Merged linear layers of old PEFT do change it.
    file.write_text(json.dumps({**json.loads(file.read_text()), "enable_lora": [True, False, True]}))
    with pytest.raises(AdapterError, match="enable_lora"):
        Adapter.load(folder)


def test_a_shard_of_fsdp(folder: Path) -> None:
    change(folder, m___fsdp_wrapped_module___flat_param=torch.ones(24))
    with pytest.raises(AdapterError, match=r"_flat_param' is a flattened shard of FSDP.*FULL_STATE_DICT"):
        Adapter.load(folder)


@pytest.mark.newer("peft", "0.21", "with bias='lora_only' its files hold no biases")
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_are_judged_by_the_tensors(build: Any, relative_error: Any, bias: str, tmp_path: Path) -> None:
    # Llama's layers have none, so that the switch did nothing; GPT-2's have.
    adapted = build.peft_model(build.tiny_model("llama"), targets=["q_proj"], bias=bias)
    adapted.save_pretrained(tmp_path / "llama")
    adapter = Adapter.load(tmp_path / "llama")
    for module in adapter.modules:
        expected = adapted.get_submodule(PRE + module).get_delta_weight("default")
        assert relative_error(adapter.delta(module), expected) <= 1e-6
    assert adapter.notes == (f"bias is '{bias}' in its configuration, but no layer had one: the file holds none",)
    folder = build.adapter_folder(
        build.tiny_model("gpt2"), tmp_path / "gpt2", targets=["c_attn"], bias=bias, fan_in_fan_out=True
    )
    with pytest.raises(AdapterError, match=rf"bias is '{bias}', expected 'none': the file holds \d+ whole biases"):
        Adapter.load(folder)


@pytest.mark.parametrize("shape", [(0,), (0, 6), (3, 0)])
@pytest.mark.parametrize("name", ["m__q__lora_A__weight", "m__q__base_layer__weight", "lm_head__weight"])
def test_empty_tensors_are_a_save_of_zero_3(folder: Path, shape: tuple[int, ...], name: str) -> None:
    change(folder, **{name: torch.empty(shape)})
    with pytest.raises(AdapterError, match=r"1 of .* tensors are empty.*without gathering ZeRO-3 shards"):
        Adapter.load(folder)


def test_a_convolution_can_be_left_out(folder: Path) -> None:
    a, b = torch.ones(3, 6, 2, 2), torch.ones(8, 1, 1, 1)  # in 3 groups
    change(folder, visual__proj__lora_A__weight=a, visual__proj__lora_B__weight=b)
    with pytest.raises(
        AdapterError, match=r"convolution \(those in groups.*leave_out=\['visual\.proj'\] \(--leave-out visual\.proj\)"
    ):
        Adapter.load(folder)
    for name in ("visual.proj", "proj"):
        adapter = Adapter.load(folder, leave_out=[name])
        assert adapter.modules == ("m.q", "m.v")
        assert adapter.left_out == tuple(f"{PRE}visual.proj.lora_{part}.weight" for part in "AB")
        assert read_stored_form(folder, leave_out=adapter.leave_out).scales == (1.0,)
    with pytest.raises(AdapterError, match="holds no LoRA factors"):
        Adapter.load(folder, leave_out=["q", "v", "proj"])


def test_fused_experts_can_be_left_out(folder: Path) -> None:
    experts = {"mlp__experts__lora_A__weight": (12, 6), "mlp__experts__base_layer__lora_A__weight": (12, 6)}
    change(folder, **{name: torch.ones(shape) for name, shape in experts.items()})
    with pytest.raises(AdapterError, match=r"LoRA inside a LoRA.*--leave-out mlp\.experts"):
        Adapter.load(folder)
    assert Adapter.load(folder, leave_out=["mlp.experts"]).modules == ("m.q", "m.v")


def test_what_is_left_out_can_be_said_in_one_go(folder: Path) -> None:
    """As PEFT writes all-linear of a mixture of experts: stacks of both projections, and the router."""
    tensors = {f"m__0__q__lora_{part}__weight": shape for part, shape in (("A", (3, 6)), ("B", (8, 3)))}
    for layer in (0, 1):
        for name in ("experts__base_layer__", "experts__", "gate__"):
            rows = 12 if "experts" in name else 3
            tensors |= {f"m__{layer}__mlp__{name}lora_A__weight": (rows, 6)}
            tensors |= {f"m__{layer}__mlp__{name}lora_B__weight": (8, rows)}
    change(folder, **{name: torch.ones(shape) for name, shape in tensors.items()})
    file = folder / "adapter_config.json"
    said = {"target_modules": ["q", "v"], "target_parameters": ["gate.weight", "down_proj", "gate_up_proj"]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    # No gate_up_proj and down_proj have these shapes; the router could be read.
    advice = r"\(2 modules of this kind\).*\(--leave-out mlp\.experts\)$"
    with pytest.raises(AdapterError, match=advice):
        Adapter.load(folder)
    read = Adapter.load(folder, leave_out=["mlp.experts"]).modules
    assert read == ("m.0.mlp.gate", "m.0.q", "m.1.mlp.gate", "m.q", "m.v")
    with pytest.raises(AdapterError, match="The file holds nothing else"):
        Adapter.load(folder, leave_out=["q", "v", "gate"])


def test_an_expression_that_is_not_tried_does_not_make_parameters_of_modules(folder: Path) -> None:
    file = folder / "adapter_config.json"
    said = {"target_modules": "(?!x).*[qv].*.*", "target_parameters": ["experts.w"]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    adapter = Adapter.load(folder)
    assert adapter.modules == ("m.q", "m.v")
    assert any("is not tried here" in note for note in adapter.notes)


def test_fused_experts_that_target_modules_cover_are_known_by_their_shape(folder: Path) -> None:
    change(folder, mlp__experts__lora_A__weight=torch.ones(12, 6), mlp__experts__lora_B__weight=torch.ones(8, 12))
    with pytest.raises(AdapterError, match=r"say rank 3.*If these are 4 fused experts.*--leave-out mlp\.experts"):
        Adapter.load(folder)
