"""A merge is never shown without the adapters it was made of, or a reader is told which are missing."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.evaluation.adapters import EvaluatedAdapter
from sst_merge.evaluation.merge_sources import MergeInputs, find_merge_inputs
from sst_merge.lora_utils import adapter_fingerprints
from sst_merge.worlds.lab import load_lab


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A merge of two adapters by the command line, from a working folder of its own."""
    lab = load_lab(0, progress=False)
    for name in ("reverse", "safety"):
        shutil.copytree(lab.adapter_path(name, base="unaligned"), tmp_path / "work" / "adapters" / name)
    monkeypatch.chdir(tmp_path / "work")
    arguments = ["merge", "--adapter", "adapters/reverse", "--adapter", "name=safe,path=adapters/safety,role=safety"]
    done = CliRunner().invoke(cli, [*arguments, "--method", "task_arithmetic", "--output", "merged"])
    assert done.exit_code == 0, done.output
    return tmp_path / "work" / "merged"


def evaluated(folder: Path, name: str) -> EvaluatedAdapter:
    return EvaluatedAdapter(
        name=name, path=folder, files=adapter_fingerprints(folder), modules=(), rank=8, changes_nothing=False
    )


def test_the_command_evaluates_the_inputs_too(merged: Path) -> None:
    arguments = ["evaluate", "--base", "lab:unaligned", "--adapter", "merged", "--suite", "lab_facts", "--samples", "4"]
    done = CliRunner().invoke(cli, [*arguments, "--device", "cpu", "--out", "out"])
    assert done.exit_code == 0, done.output
    summary = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert summary["models"] == ["base", "reverse", "safe", "merged"]
    assert {rate["model"] for rate in summary["rates"]} == {"base", "reverse", "safe", "merged"}
    assert not any("was not found" in warning for warning in summary["warnings"])


def test_inputs_are_found_from_elsewhere_but_only_with_the_same_files(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = merged.parent / "adapters"
    merge = evaluated(merged, "mine")
    assert find_merge_inputs([merge]) == MergeInputs({"reverse": beside / "reverse", "safe": beside / "safety"}, [])
    # One is evaluated already, under any name; and a name that is taken by something else is not taken twice.
    named = [merge, evaluated(beside / "reverse", "safe")]
    assert find_merge_inputs(named) == MergeInputs({"safe of mine": beside / "safety"}, [])

    weights = beside / "safety" / "adapter_model.safetensors"
    weights.write_bytes((beside / "reverse" / "adapter_model.safetensors").read_bytes())
    changed = find_merge_inputs([merge])
    assert list(changed.found) == ["reverse"]
    (warning,) = changed.warnings
    assert "mine: its input 'safe' (safety)" in warning and "--adapter safe=FOLDER" in warning


def test_a_report_that_cannot_be_read_is_named(merged: Path) -> None:
    (merged / "merge_report.json").write_text('{"format": "other"}', encoding="utf-8")
    (warning,) = find_merge_inputs([evaluated(merged, "mine")]).warnings
    assert "mine: merge_report.json cannot be read" in warning
    assert find_merge_inputs([evaluated(merged.parent / "adapters" / "safety", "safety")]) == MergeInputs()
