"""Adapters that are no plain LoRA, on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from peft import IA3Config, LoHaConfig, get_peft_model
from safetensors.torch import load_file

from sst_merge.cli.main import cli
from sst_merge.errors import AdapterError
from sst_merge.evaluation.adapters import check_adapters
from sst_merge.lora_utils import Adapter, BaseModelIndex

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an IA³ adapter of it, and a LoRA as a pickle."""
    root = tmp_path_factory.mktemp("place")
    model = build.tiny_model("llama")
    model.save_pretrained(root / "base")
    build.adapter_folder(model, root / "old", targets=["q_proj"], r=2)
    torch.save(load_file(root / "old/adapter_model.safetensors"), root / "old/adapter_model.bin")
    (root / "old/adapter_model.safetensors").unlink()
    adapted = get_peft_model(
        model, IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    )
    build.randomise(adapted, seed=1, scale=0.1, only="ia3_")
    adapted.save_pretrained(root / "ia3")
    loha = LoHaConfig(target_modules=["q_proj"], r=2, init_weights=False)
    get_peft_model(build.tiny_model("llama"), loha).save_pretrained(root / "loha")
    return root


def test_a_merge_of_two_kinds(place: Path, relative_error: Any, tmp_path: Path) -> None:
    adapters = ["--adapter", place / "ia3", "--adapter", place / "old", "-o", tmp_path / "out"]
    without = call("merge", *adapters)
    # All faults at once, each with its flag.
    assert without.exit_code == 2 and "--base" in without.output and "--allow-pickle" in without.output
    done = call("merge", *adapters, "--base", place / "base", "--allow-pickle")
    assert done.exit_code == 0, done.output
    assert "IA3, read as a LoRA of rank 16 at most" in done.stderr and "was a pickle" in done.stderr
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    converted = report["provenance"]["converted"]["ia3"]
    assert (converted["kind"], converted["base"], converted["largest_rank"]) == ("IA3", "base", 16)
    assert converted["lost"] <= 1e-6
    assert set(report["adapters"][1]["files"]) == {"adapter_config.json", "adapter_model.bin"}
    weight = load_file(place / "base/model.safetensors")
    lengths = load_file(place / "ia3/adapter_model.safetensors")
    merged = Adapter.load(tmp_path / "out")
    name = "model.layers.1.mlp.down_proj"
    expected = weight[f"{name}.weight"] * (lengths[f"base_model.model.{name}.ia3_l"] - 1)
    assert relative_error(merged.delta(name), expected) <= 1e-5


def test_inspect_and_export(place: Path, tmp_path: Path) -> None:
    refused = call("inspect", place / "ia3", place / "old", "--allow-pickle")
    assert refused.exit_code == 2 and "IA3 has no ΔW of its own" in refused.output
    done = call("inspect", place / "ia3", place / "old", "--allow-pickle", "--base", place / "base")
    assert done.exit_code == 0, done.output
    cut = [
        "export",
        place / "ia3",
        "--to",
        "peft",
        "-o",
        tmp_path / "out",
        "--base",
        place / "base",
        "--convert-rank",
        4,
    ]
    assert "--convert-lost" in call(*cut).output
    done = call(*cut, "--convert-lost", 0.9)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out/export_report.json").read_text())["converted"]
    assert record["largest_rank"] == 4 and 0.0 < record["lost"] <= record["most_lost"]["lost"] <= 0.9
    assert {Adapter.load(tmp_path / "out").rank(m) for m in Adapter.load(tmp_path / "out").modules} == {4}


def test_evaluate_names_the_way(build: Any, place: Path) -> None:
    index = BaseModelIndex.of(build.tiny_model("llama"))
    with pytest.raises(AdapterError, match=r"a LOHA.*plain LoRA.*sst-merge export .* --to peft"):
        check_adapters({"loha": place / "loha"}, index)
