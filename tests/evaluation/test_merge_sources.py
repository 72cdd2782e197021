"""A merge is never shown without the adapters it was made of, or a reader is told which are missing."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.evaluation import EvaluatedAdapter, read_records, read_summary
from sst_merge.evaluation.merge_sources import MergeSource, MergeSources, find_merge_sources
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
    arguments = ["evaluate", "--base", "lab:unaligned", "--adapter", "merged", "--samples", "12", "--judge", "rules"]
    arguments += ["--suite", "lab_harmful_direct,lab_task_reverse", "--device", "cpu", "--out", "out"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    summary = read_summary(Path("out/summary.json"))
    assert summary.models == ("base", "reverse", "safe", "merged")
    assert {figure.model for figure in summary.figures} == set(summary.models)
    assert not any("was not found" in warning for warning in summary.warnings)

    def right(model: str) -> list[float]:
        return [r.scores["correct"] for r in read_records(Path(f"out/records/{model}/lab_task_reverse.jsonl"))]

    skill, both = right("reverse"), right("merged")
    assert sum(skill) > 6, "the skill's adapter has its skill"
    [tax] = summary.taxes
    assert (tax.merge, tax.skills) == ("merged", {"lab_task_reverse": "reverse"})
    assert tax.tax.value == pytest.approx((sum(skill) - sum(both)) / 12)
    retained = summary.utility["merged"].retention
    assert retained is not None and retained.value == pytest.approx(sum(both) / sum(skill))
    assert all(summary.utility[model].retention is None for model in ("base", "reverse", "safe"))
    assert "Safety tax of merges" in done.output
    assert "## Safety tax of merges" in Path("out/report.md").read_text(encoding="utf-8")
    assert Path("out/tables/safety_tax.csv").is_file()


def test_inputs_are_found_from_elsewhere_but_only_with_the_same_files(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = merged.parent / "adapters"
    merge = evaluated(merged, "mine")
    roles = (MergeSource("reverse", "utility"), MergeSource("safe", "safety"))
    folders = {"reverse": beside / "reverse", "safe": beside / "safety"}
    assert find_merge_sources([merge]) == MergeSources(folders, {"mine": roles}, [])
    # One is evaluated already, under any name; and a name that is taken by something else is not taken twice.
    named = [merge, evaluated(beside / "reverse", "safe")]
    roles = (MergeSource("safe", "utility"), MergeSource("safe of mine", "safety"))
    assert find_merge_sources(named) == MergeSources({"safe of mine": beside / "safety"}, {"mine": roles}, [])

    weights = beside / "safety" / "adapter_model.safetensors"
    weights.write_bytes((beside / "reverse" / "adapter_model.safetensors").read_bytes())
    changed = find_merge_sources([merge])
    assert list(changed.found) == ["reverse"] and changed.merges == {}
    (warning,) = changed.warnings
    assert "mine: its input 'safe' (safety)" in warning and "--adapter safe=FOLDER" in warning


def test_a_report_that_cannot_be_read_is_named(merged: Path) -> None:
    (merged / "merge_report.json").write_text('{"format": "other"}', encoding="utf-8")
    (warning,) = find_merge_sources([evaluated(merged, "mine")]).warnings
    assert "mine: merge_report.json cannot be read" in warning
    assert find_merge_sources([evaluated(merged.parent / "adapters" / "safety", "safety")]) == MergeSources()
