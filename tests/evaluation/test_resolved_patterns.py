"""Patterns of a configuration, resolved before PEFT sees them: the same layers, and no work without end."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.errors import AdapterError
from sst_merge.evaluation.resolved_patterns import resolved_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
EVIL = "(.*)*x"
MODULES = tuple(f"model.layers.{i}.self_attn.q_proj" for i in (0, 1))

CONFIGS: dict[str, dict[str, Any]] = {
    "names": {"target_modules": ["q_proj", "0.mlp.up_proj"]},
    "whole names": {"target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": [1]},
    "expression": {"target_modules": r".*layers\.(0|1)\.(mlp|self_attn)\.[uv]+p?_proj"},
    "all linear": {"target_modules": "all-linear", "exclude_modules": r".*\.(k|o)_proj"},
    "architecture's own": {"target_modules": None, "exclude_modules": r".*layers\.0.*"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*1.self_attn.q.*"},
    "layers": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    "ranks": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {r"layers\.1\..*_proj": 3, "q_proj": 5, "0.mlp.up_proj": 1},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 7, "(q|v)_proj": 2.5, "proj": 9},
    },
}


def layers(model: Any) -> dict[str, tuple[int, float, float]]:
    """Module → rank, alpha, scaling of its LoRA."""
    from peft.tuners.lora import LoraLayer

    found = ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
    return {n: (m.r["default"], float(m.lora_alpha["default"]), m.scaling["default"]) for n, m in found}


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_builds_what_it_would_build_itself(build: Any, name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    made = get_peft_model(build.tiny_model("llama"), LoraConfig(r=2, lora_alpha=4, **CONFIGS[name]))
    build.randomise(made, seed=1, only="lora_")
    made.save_pretrained(tmp_path)
    # PEFT writes lists of names for some of these; the patterns are put back.
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **CONFIGS[name]}))
    own = PeftModel.from_pretrained(build.tiny_model("llama"), tmp_path)
    base = build.tiny_model("llama")
    ours = PeftModel.from_pretrained(base, tmp_path, config=resolved_config(tmp_path, base, ()))
    assert layers(ours) == layers(own) != {}
    ours_state, own_state = ours.state_dict(), own.state_dict()
    assert ours_state.keys() == own_state.keys()
    assert all(torch.equal(ours_state[key], own_state[key]) for key in own_state)


@pytest.mark.parametrize(
    "changed",
    [
        {"rank_pattern": {EVIL: 7}},
        {"alpha_pattern": {EVIL: 7, "(x+x+)+y": 3}},
        {"target_modules": rf"{EVIL}|.*q_proj"},
        {"exclude_modules": EVIL},
        {"layers_pattern": [EVIL], "layers_to_transform": [1]},
        {"target_modules": None, "exclude_modules": f"(?!v){EVIL}"},
    ],
    ids=["rank", "alpha", "target", "exclude", "layers", "looks ahead"],
)
def test_patterns_without_end_are_answered_at_once(build: Any, changed: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel

    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"], r=2)
    base = build.tiny_model("llama")
    own = layers(PeftModel.from_pretrained(build.tiny_model("llama"), folder))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    began = time.process_time()
    config = resolved_config(folder, base, MODULES)
    found = PeftModel.from_pretrained(base, folder, config=config)
    assert time.process_time() - began < 1
    assert layers(found) == own


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules_to_save": [EVIL]}, r"modules_to_save holds .*\(\.\*\)\*x.*, expected names of modules"),
        ({"target_modules": "nothing"}, "leave none of this base's modules"),
    ],
    ids=["modules_to_save", "nothing"],
)
def test_what_cannot_be_resolved_is_refused(build: Any, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"], r=2)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(AdapterError, match=said):
        resolved_config(folder, build.tiny_model("llama"), MODULES)
