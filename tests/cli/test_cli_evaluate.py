"""``sst-merge evaluate`` as a user types it, on the lab's models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.errors import ConfigError, DataError
from sst_merge.evaluation import read_summary
from sst_merge.suites import GROUPS, available_suites, expand_suites
from sst_merge.worlds.lab import load_lab
from sst_merge.worlds.lab.names import LabNames


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


@pytest.mark.parametrize("flag", ["--help", "--list-suites"])
def test_help_and_list_import_nothing_heavy(flag: str) -> None:
    script = (
        "import sys\nfrom sst_merge.cli.main import cli\n"
        f"cli(['evaluate', '{flag}'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'sklearn', 'scipy', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if flag == "--list-suites":
        assert all(name in done.stdout for name in available_suites())


def test_a_base_and_adapters_on_the_lab(tmp_path: Path) -> None:
    """One command in a process of its own: the results, and nothing else on either stream."""
    out = tmp_path / "out"
    own = tmp_path / "questions.jsonl"
    own.write_text(json.dumps({"prompt": "what kind of thing is a nothing ?", "answer": "it is a toy"}) + "\n")
    arguments = ["evaluate", "--base", "lab:unaligned", "--adapter", "lab:safety", "--adapter", "skill=lab:reverse"]
    arguments += ["--suite", f"drift,lab_task_reverse,{own}", "--samples", "8", "--device", "cpu", "--out", str(out)]
    arguments += ["--max-new-tokens", "16", "--quiet"]
    script = "import sys; from sst_merge.cli.main import main; sys.argv = ['sst-merge', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "lm-evaluation-harness and its friends keep quiet"
    header = next(line for line in done.stdout.splitlines() if "suite" in line)
    assert [header.index(name) for name in ("base", "safety", "skill")] == sorted(
        header.index(name) for name in ("base", "safety", "skill")
    )
    assert done.stdout.rstrip().endswith(str(out))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"] == ["base", "safety", "skill"] and summary["reference"] == "base"
    assert summary["suites"] == ["lab_drift_unsafe", "lab_drift_safe", "lab_task_reverse", "custom_questions"]
    facts = json.loads((out / "run.json").read_text())
    read = read_summary(out / "summary.json")
    for model in summary["models"]:
        for suite in summary["suites"]:
            records = [json.loads(line) for line in (out / "records" / model / f"{suite}.jsonl").open()]
            assert {record["run"] for record in records} == {facts["run"]}
            score = "refusal" if "drift" in suite else "correct"
            figure = read.figure(model, suite, score)
            assert figure is not None and figure.n == len(records) == (1 if suite.startswith("custom") else 8)
            assert figure.value * figure.n == pytest.approx(sum(record["scores"][score] for record in records))
    assert set(facts["records"]) == {p.relative_to(out).as_posix() for p in (out / "records").rglob("*.jsonl")}
    for name in ("index.html", "report.md", "tables/overview.csv", "pictures/lab_task_reverse.svg"):
        assert (out / name).is_file(), name
    again = call(*arguments[1:])
    assert again.exit_code == 2 and "--force" in again.output


def test_errors_name_the_way_out(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "--base (base): missing"),
        (["--base", "b"], "--suite (suites): missing"),
        (["--base", "b", "--suite", "mmlu"], "--out (out): missing"),
        (["--base", "b", "--suite", "nonsense", "--out", tmp_path / "o"], "unknown suite 'nonsense'"),
        (["--base", "b", "--suite", "xstest_safe", "--judge", "nobody", "--out", tmp_path / "o"], "unknown judge"),
        (["--base", "b", "--adapter", "lab:safety", "--suite", "mmlu", "--out", tmp_path / "o"], "base lab:unaligned"),
        (["--base", "lab:nowhere", "--suite", "all", "--out", tmp_path / "o"], "unaligned, aligned"),
        (["--base", "b", "--suite", "mmlu", "--batch-size", "many", "--out", tmp_path / "o"], "number of at least 1"),
        (
            ["--base", "lab:unaligned", "--adapter", tmp_path / "no", "--suite", "all", "--out", tmp_path / "o"],
            "no such folder",
        ),
        (
            ["--base", "lab:aligned", "--suite", "drift", "--driftcheck", "own.jsonl", "--out", tmp_path / "o"],
            "leave out --driftcheck",
        ),
        (
            ["--base", "lab:unaligned", "--suite", "lab_facts", "--max-new-tokens", 20, "--judge-check", "nobody"],
            "unknown judge",
        ),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.output, (arguments, result.output)
    several = [
        "--base",
        "b",
        "--suite",
        "nonsense",
        "--judge",
        "rule",
        "--adapter",
        tmp_path / "no",
        "--exclude",
        "gone",
    ]
    told = call(*several, "--out", tmp_path / "o").stderr.splitlines()
    for part in ("unknown suite 'nonsense'", "unknown judge 'rule' (did you mean 'rules'?)", "no such folder", "gone"):
        assert sum(part in line for line in told) == 1, (part, told)
    assert not (tmp_path / "o").exists()


def test_a_file_and_flags_over_it(tmp_path: Path) -> None:
    """What the file says is done, what a flag says wins; the file's paths start at its folder."""
    config = tmp_path / "evaluate.yaml"
    config.write_text(
        "base: lab:unaligned\nadapters: [skill=lab:reverse]\nsuites: [lab_task_reverse, lab_facts]\n"
        "samples: 400\nout: results\ndevice: cpu\nseed: 2\n"
    )
    result = call(config, "--samples", 6, "--suite", "lab_task_reverse", "--reference", "skill")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "results" / "run.json").read_text())
    assert (facts["samples"], facts["seed"], list(facts["suites"])) == (6, 2, ["lab_task_reverse"])
    summary = read_summary(tmp_path / "results" / "summary.json")
    assert summary.models == ("base", "skill") and summary.reference == "skill"
    assert "Difference from skill on the same samples" in result.output
    wrong = call(config, "--samples", "few")
    assert wrong.exit_code == 2 and "--samples (samples): Input should be a valid integer" in wrong.output


def test_groups_of_suites(lab_counterparts: dict[str, str]) -> None:
    suites, counterparts = available_suites(), lab_counterparts
    real, left_out = expand_suites(["all"])
    names = [suite.name for suite in real]
    assert left_out and all(suites[name].runs_code for name in left_out)
    assert {*names, *left_out} == {name for name in suites if not name.startswith("lab_")}
    assert names == [name for name in suites if name in names], "in the order of the table"
    allowed, none_left = expand_suites(["utility"], allow_code=True)
    assert none_left == [] and all(suite.measure == "utility" for suite in allowed)
    assert any(suite.runs_code for suite in allowed)
    asked, _ = expand_suites(["humaneval", "safety"])
    assert "humaneval" in [suite.name for suite in asked], "a suite that is named is not left out"
    lab, _ = expand_suites(["all", "lab_task_add"], world="lab")
    assert [suite.name for suite in lab] == [
        "lab_harmful_direct",
        "lab_harmful_jailbreak",
        "lab_prefilling",
        "lab_refusal_suppression",
        "lab_lookalikes",
        "lab_facts",
        "lab_choices",
        "lab_tasks",
        "lab_tasks_samples",
        "lab_perplexity",
        "lab_drift_unsafe",
        "lab_drift_safe",
        "lab_task_add",
    ]
    for group in GROUPS:
        real, _ = expand_suites([group], allow_code=True)
        lab, left_out = expand_suites([group], world="lab")
        assert not left_out
        assert {counterparts[suite.name] for suite in real} <= {suite.name for suite in lab}, "nothing is missing"
    with pytest.raises(DataError, match=r"unknown suite 'x'; groups: safety"):
        expand_suites(["x"])


def test_names_of_the_lab() -> None:
    lab = load_lab(0)
    names = LabNames.of("lab:unaligned")
    assert names.base_path == lab.base_path("unaligned")
    assert names.adapter("lab:safety") == ("safety", lab.adapter_path("safety"))
    poisoned = LabNames.of("lab:aligned:0").adapter("lab:poisoned")
    assert poisoned == ("poisoned", lab.adapter_path("poisoned", base="aligned"))
    assert LabNames.of("lab:unaligned:3").seed == 3
    for wrong in ("lab:", "lab:unaligned:x", "lab:elsewhere"):
        with pytest.raises(ConfigError):
            LabNames.of(wrong)
    with pytest.raises(DataError, match="no adapter 'safety' on the aligned base"):
        LabNames.of("lab:aligned").adapter("lab:safety")


def test_a_judge_against_its_labels(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [("I'm sorry, but I can't help with that.", 1), ("Sure! First, boil the water.", 0)] * 4
    labels.write_text(
        "".join(json.dumps({"prompt": f"q{i}", "response": r, "refusal": y}) + "\n" for i, (r, y) in enumerate(rows))
    )
    result = call("--judge-check", "rules", "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "labels.jsonl: refusal, n = 8 answers to 8 questions, 4 labelled yes" in result.output
    assert "1.000 [1.000, 1.000]" in result.output
    told = json.loads(call("--judge-check", "rules", "--labels", labels, "--json").stdout)
    assert told["n"] == 8 and told["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
