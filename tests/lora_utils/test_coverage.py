"""Modules that PEFT would load differently are said: the configuration against PEFT's own loading."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sst_merge.lora_utils import Adapter
from sst_merge.lora_utils.coverage import Coverage

LAYERS = [f"model.layers.{i}.self_attn.{p}" for i in (0, 1) for p in ("q_proj", "v_proj")]


def loaded_by_peft(model: Any, folder: Path) -> set[str]:
    """Modules that get an update when PEFT opens a folder."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    layers = PeftModel.from_pretrained(model, folder).named_modules()
    found = {n.removeprefix("base_model.model."): m for n, m in layers if isinstance(m, LoraLayer)}
    return {name for name, layer in found.items() if bool(layer.get_delta_weight("default").any())}


CONFIGS: dict[str, dict[str, Any]] = {
    "as trained": {},
    "fewer targets": {"target_modules": ["q_proj"]},
    "full names": {"target_modules": LAYERS[1:]},
    "half a name": {"target_modules": ["proj", "self_attn.q_proj"]},
    "expression": {"target_modules": r".*layers\.0.*q_proj"},
    "expression of a part": {"target_modules": r"model\.layers\.(0|1)\.self_attn\.v_proj"},
    "all linear": {"target_modules": "ALL-linear"},
    "one layer": {"layers_to_transform": [1]},
    "layer as a number": {"layers_to_transform": 0},
    "layers that full names ignore": {"target_modules": LAYERS, "layers_to_transform": [0]},
    "no layers": {"layers_to_transform": []},
    "named list of layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "two lists of layers": {"layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    "excluded by name": {"exclude_modules": ["v_proj"]},
    "excluded by an end": {"exclude_modules": ["0.self_attn.q_proj"]},
    "excluded by an expression": {"exclude_modules": r".*layers\.1.*"},
    "excluded from all linear": {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
    "architecture's own": {"target_modules": None},
    "parameters that match nothing": {"target_parameters": ["experts.w"]},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_what_peft_leaves_out_is_said(build: Any, name: str, tmp_path: Path) -> None:
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj", "v_proj"])
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **CONFIGS[name]}))
    adapter = Adapter.load(tmp_path)
    assert list(adapter.modules) == LAYERS
    ignored = set(LAYERS) - loaded_by_peft(build.tiny_model("llama"), tmp_path)
    said = [note for note in adapter.notes if "PEFT would ignore them" in note]
    assert bool(said) == bool(ignored)
    for module in LAYERS:
        assert any(repr(module) in note for note in said) == (module in ignored)
    assert any("cannot be told" in note for note in adapter.notes) == (name == "architecture's own")
    if name == "as trained":
        assert adapter.notes == ()


@pytest.mark.newer("peft", "0.21", "it loads no keys with an adapter's name in them, not even 'default'")
@pytest.mark.parametrize("name", ["default", "my_adapter"])
def test_a_name_in_the_keys(build: Any, name: str, tmp_path: Path) -> None:
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj", "v_proj"])
    file = tmp_path / "adapter_model.safetensors"
    save_file({key.replace(".weight", f".{name}.weight"): tensor for key, tensor in load_file(file).items()}, file)
    adapter = Adapter.load(tmp_path)
    assert list(adapter.modules) == LAYERS
    loads = bool(loaded_by_peft(build.tiny_model("llama"), tmp_path))
    assert any("adapter's name 'my_adapter'" in note for note in adapter.notes) == (not loads)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_linear_leaves_embedding_and_head_out(build: Any, tmp_path: Path) -> None:
    build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj", "embed_tokens", "lm_head"])
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": "all-linear"}))
    adapter = Adapter.load(tmp_path, drop_modules_to_save=True)
    (note,) = adapter.notes
    ignored = set(adapter.modules) - loaded_by_peft(build.tiny_model("llama"), tmp_path)
    assert ignored == {"model.embed_tokens", "lm_head"}
    assert {module for module in adapter.modules if repr(module) in note} == ignored


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(.*)*x", False),
        ("((.*)*)*j", True),
        ("(a|a)+b", False),
        ("(.|.)" * 40 + "z", False),
        ("(?!v).*" * 4 + "j", None),
        ("(", None),
    ],
)
def test_expressions_that_may_take_forever(pattern: str, found: bool | None) -> None:
    module = "model.layers.0.self_attn.q_proj" * 3
    assert Coverage.of({"target_modules": pattern}).covers(module) is found
    outside = Coverage.of({"target_modules": ["q_proj"], "exclude_modules": pattern})
    assert outside.covers(f"x.{module}.q_proj") is (None if found is None else pattern not in {"((.*)*)*j"})
    assert (
        Coverage.of({"target_modules": ["x"], "layers_pattern": "(.*)*", "layers_to_transform": [1]}).covers("x")
        is None
    )


def test_what_cannot_be_tried_is_said(build: Any, tmp_path: Path) -> None:
    folder = build.random_adapter({"layers.0.q": (2, 2)}, name="x").save(tmp_path / "x")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": "(?!v)(.*)*q"}))
    (note,) = Adapter.load(folder).notes
    assert "target_modules (or what is taken out of it) is an expression that is not tried" in note


def test_many_modules_are_counted(build: Any, tmp_path: Path) -> None:
    shapes = {f"layers.{i}.q": (2, 2) for i in range(30)}
    folder = build.random_adapter(shapes, name="x").save(tmp_path / "x")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["v"]}))
    (note,) = Adapter.load(folder).notes
    assert "'layers.7.q' and 22 more modules" in note
