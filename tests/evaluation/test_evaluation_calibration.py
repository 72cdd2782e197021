"""What a merge was calibrated on is not asked again: where its prompts are read from, and what is recorded."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.data_loader import load_rows
from sst_merge.errors import ConfigError, DataError
from sst_merge.evaluation import evaluate_models
from sst_merge.evaluation.calibration import CalibrationPrompts, read_calibration
from sst_merge.merging.config import load_config
from sst_merge.reporting import write_evaluation_report
from sst_merge.suites import get_suites
from sst_merge.worlds.lab import Lab
from sst_merge.worlds.lab.suite_rows import lab_rows


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_of_files_in_any_schema(tmp_path: Path) -> None:
    plain = lines(tmp_path / "a.jsonl", {"prompt": "One?"}, {"prompt": "Two?"}, {"prompt": " one? "})
    found = read_calibration(str(plain))
    assert found == CalibrationPrompts(name="a.jsonl", prompts=("One?", "Two?"))
    goals = tmp_path / "b.csv"
    with goals.open("w", newline="") as stream:
        csv.writer(stream).writerows([("goal", "target"), ("TWO?", "Sure"), ("one?", "Sure")])
    other = read_calibration(str(goals))
    assert other.prompts == ("TWO?", "one?"), "harmful answers do not matter, they are not read"
    assert found.facts()["sha256"] == other.facts()["sha256"], "equal up to order and case"
    assert found.facts()["prompts"] == 2
    third = read_calibration(str(lines(tmp_path / "c.jsonl", {"prompt": "One?"}, {"prompt": "Three?"})))
    assert third.facts()["sha256"] != found.facts()["sha256"]


def test_a_merge_gives_exactly_the_rows_that_it_draws(tmp_path: Path) -> None:
    harm = lines(tmp_path / "harm.jsonl", *({"prompt": f"harm {k}", "response": "no"} for k in range(20)))
    own = lines(tmp_path / "own.jsonl", *({"question": f"sum {k}", "answer": str(k)} for k in range(5)))
    config = tmp_path / "merge.yaml"
    config.write_text(
        "adapters: [{path: code, data: {path: own.jsonl}}, {path: safety, role: safety}]\n"
        "data: {harm: {path: harm.jsonl, samples: 6}}\nmerge: {method: sst}\noutput: {path: out}\nseed: 3\n"
    )
    prompts = set(read_calibration(str(config)).prompts)
    checked = load_config(config)
    assert checked.data.harm is not None
    drawn = {row.prompt for row in load_rows(checked.data.harm, seed=3)}
    assert len(drawn) == 6 and prompts == drawn | {f"sum {k}" for k in range(5)}
    assert harm.is_file() and own.is_file()
    config.write_text("adapters: [{path: code}]\noutput: {path: out}\n")
    with pytest.raises(ConfigError, match="names no data"):
        read_calibration(str(config))


def test_sets_by_name_and_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"{label} {k}?" for k in range(3) for label in ("safe", "unsafe")]
    (tmp_path / "data/xstest").mkdir(parents=True)
    with (tmp_path / "data/xstest/xstest_prompts.csv").open("w", newline="") as stream:
        rows = [(k, prompt, "homonyms", prompt.split()[0], "kill", "") for k, prompt in enumerate(prompts, 1)]
        csv.writer(stream).writerows([("id", "prompt", "type", "label", "focus", "note"), *rows])
    monkeypatch.setenv("SST_MERGE_DATA", str(tmp_path / "data"))
    assert set(read_calibration("xstest").prompts) == set(prompts)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "merge_report.json").write_text("{}")
    for where in (tmp_path / "merged", tmp_path / "merged" / "merge_report.json"):
        with pytest.raises(ConfigError, match="report does not name its calibration data; give the merge's YAML"):
            read_calibration(str(where))
    with pytest.raises(ConfigError, match=r"--exclude xstst: no such file or data set; .* xstest"):
        read_calibration("xstst")
    with pytest.raises(DataError, match="no field is known as a prompt"):
        read_calibration(str(lines(tmp_path / "x.jsonl", {"text": "One?"})))


def test_what_is_left_out_is_counted_recorded_and_part_of_the_run(
    cpu: Any, lab: Lab, base: str, tmp_path: Path
) -> None:
    suites, out = get_suites(("lab_facts", "lab_drift_safe")), tmp_path / "out"
    whole = evaluate_models(base, {}, suites, out, settings=cpu, samples=8)
    known = whole.records["base", "lab_facts"][5].prompt
    pair = whole.records["base", "lab_drift_safe"][2]
    exclude = [CalibrationPrompts(name="mine", prompts=(known.upper(), "asked by nobody", pair.prompt))]
    run = evaluate_models(
        base,
        {},
        suites,
        out,
        settings=cpu,
        samples=8,
        exclude=exclude,
        force=True,
        write_report=write_evaluation_report,
    )
    for suite, gone in (("lab_facts", known), ("lab_drift_safe", pair.prompt)):
        before = [record.prompt for record in whole.records["base", suite]]
        after = [record.prompt for record in run.records["base", suite]]
        assert len(before) == len(after) == 8, "the next in the draw takes its place"
        assert set(before) - set(after) == {gone}
    assert run.generated == 2, "the other answers are used again"
    pools = {
        "lab_facts": [sample.prompt for sample in lab.world.samples("general", "test")],
        "lab_drift_safe": [row["prompt"] for row in lab_rows(lab.world, "drift:safe")],
    }
    expected = {name: sum(prompt in {known, pair.prompt} for prompt in pool) for name, pool in pools.items()}
    assert run.summary.left_out == expected and all(expected.values()) and whole.summary.left_out == {}
    facts = json.loads((out / "run.json").read_text())
    assert [entry["name"] for entry in facts["exclude"]] == ["mine"] and facts["exclude"][0]["prompts"] == 3
    assert {name: entry["left_out"] for name, entry in facts["suites"].items()} == run.summary.left_out
    assert facts["run"] != whole.provenance["run"] and whole.provenance["exclude"] == []
    assert "mine (3 prompts)" in (out / "report.md").read_text()
    idle = [CalibrationPrompts(name="mine", prompts=("asked by nobody",))]
    other = evaluate_models(base, {}, suites, out, settings=cpu, samples=8, exclude=idle, force=True)
    assert other.generated == 0 and other.summary.left_out == {"lab_facts": 0, "lab_drift_safe": 0}
    assert other.provenance["run"] not in {facts["run"], whole.provenance["run"]}


def test_on_the_command_line(lab: Lab, tmp_path: Path) -> None:
    known = [sample.prompt for sample in lab.world.samples("fact", "test")[:3]]
    file = lines(tmp_path / "calibration.jsonl", *({"prompt": prompt} for prompt in known))
    arguments = ["evaluate", "--base", "lab:unaligned", "--suite", "lab_facts", "--samples", "8", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*arguments, "--exclude", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "rows left out because a merge was calibrated on them: lab_facts 3" in done.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["left_out"] == {"lab_facts": 3}
    done = CliRunner().invoke(cli, [*arguments, "--exclude", "nothing.jsonl", "--out", str(tmp_path / "other")])
    assert done.exit_code == 2 and "--exclude nothing.jsonl: no such file or data set" in done.output
    assert not (tmp_path / "other").exists()
