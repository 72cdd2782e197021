"""The lookup in rank_pattern and alpha_pattern against PEFT's own, and its cost."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sst_merge.lora_utils import Adapter
from sst_merge.lora_utils.patterns import ModulePatterns

PARTS = ["layers", "q_proj", "q", "self_attn", "model", "0", "1", "10", "up-proj", "x"]
# What stands in for a part of a name or for a dot, beside itself.
VARIATIONS = [r"\.", ".", r"[.]", r"\d+", ".*", "q.proj", "^", "$", "(layers|model)", "up\\-proj", "x?"]


def peft_value(patterns: dict[str, float], module: str) -> float | None:
    from peft.utils.other import get_pattern_key

    return patterns.get(get_pattern_key(patterns.keys(), module))


@pytest.mark.parametrize("seed", range(30))
def test_values_are_those_of_peft(seed: int) -> None:
    rng = random.Random(seed)

    def name() -> str:
        return ".".join(rng.choices(PARTS, k=rng.randint(1, 5)))

    def pattern() -> str:
        text = name()
        for _ in range(rng.randint(0, 2)):
            place = rng.randint(0, len(text))
            text = text[:place] + rng.choice(VARIATIONS) + text[place + rng.randint(0, 2) :]
        return text

    patterns: dict[str, float] = {}
    for value in range(12):
        candidate = pattern()
        try:
            ModulePatterns({candidate: 1})
        except ValueError:
            continue
        patterns[candidate] = value
    read = ModulePatterns(patterns)
    for _ in range(100):
        module = name()
        assert read.find(module) == peft_value(patterns, module)


def with_patterns(folder: Path, layers: int, *, anchored: bool) -> dict[str, int]:
    """An adapter with a pattern for two modules of three; returns every module's rank."""
    modules = [
        f"model.layers.{i}.mlp.experts.{j}.{p}" for i in range(layers) for j in range(50) for p in ("up", "down")
    ]
    ranks = {module: 1 + index % 3 for index, module in enumerate(modules)}
    tensors = {}
    for module, rank in ranks.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.ones(rank, 2)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.ones(2, rank)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    escaped = {("^" + m.replace(".", "\\.") if anchored else m): r for m, r in ranks.items() if r > 1}
    config: dict[str, Any] = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "rank_pattern": escaped}
    config["alpha_pattern"] = {pattern: 2 * rank for pattern, rank in escaped.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return ranks


def loaded(folder: Path) -> tuple[Adapter, int]:
    """An adapter, and the calls that reading it took: seconds would depend on what else the machine does."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        adapter = Adapter.load(folder)
    finally:
        sys.setprofile(before)
    return adapter, calls


@pytest.mark.parametrize("anchored", [False, True])
def test_many_patterns_cost_little(anchored: bool, tmp_path: Path) -> None:
    with_patterns(tmp_path / "few", 5, anchored=anchored)
    ranks = with_patterns(tmp_path / "many", 20, anchored=anchored)
    loaded(tmp_path / "few")  # what is done once a process
    (_, few), (adapter, many) = loaded(tmp_path / "few"), loaded(tmp_path / "many")
    assert len(adapter.modules) == 2000
    assert {module: adapter.rank(module) for module in ranks} == ranks
    assert adapter.delta("model.layers.0.mlp.experts.1.up").tolist() == [[2.0 * 3] * 2] * 2
    assert many < 4.2 * few
    assert many < 500 * len(ranks)
