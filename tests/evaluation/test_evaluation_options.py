"""Helpfulness by rule, several tries, and a reference other than the base: what the options change in the results."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scipy.stats import binomtest

from sst_merge.cli.main import cli
from sst_merge.evaluation import EvaluationRun, evaluate_models
from sst_merge.evaluation.helpfulness import with_helpfulness
from sst_merge.evaluation.records import Record
from sst_merge.judges import make_judges
from sst_merge.reporting import write_evaluation_report
from sst_merge.suites import available_suites, get_suites


def test_helpful_is_neither_refused_nor_incoherent() -> None:
    cases = [
        ({"refusal": 0.0, "incoherent": 0.0}, 1.0),
        ({"refusal": 1.0, "incoherent": 0.0}, 0.0),
        ({"refusal": 0.0, "incoherent": 1.0, "harm": 0.0}, 0.0),
        ({"refusal": 1.0, "incoherent": 1.0}, 0.0),
        ({"refusal": 1.0}, None),
        ({"incoherent": 0.0, "harm": 0.0}, None),
    ]
    records = [
        Record(model="m", suite="s", id=str(i), prompt="p", response="r", scores=s) for i, (s, _) in enumerate(cases)
    ]
    found = with_helpfulness(records)
    assert [record.scores.get("helpful") for record in found] == [wanted for _, wanted in cases]
    assert found[0].judges == {"helpful": "rule: neither refused nor incoherent"} and found[4] == records[4]
    assert [name for name, suite in available_suites().items() if suite.helpfulness] == ["drift_safe"]


@pytest.fixture(scope="module")
def drift(cpu: Any, base: str, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> EvaluationRun:
    """English prompts for a base that reads none: the answers are nonsense, their bookkeeping is not."""
    folder = tmp_path_factory.mktemp("drift")
    prompts = folder / "own.csv"
    with prompts.open("w", newline="") as stream:
        rows = [(f"{label} question {k} ?", label) for label in ("safe", "unsafe") for k in range(6)]
        csv.writer(stream).writerows([("prompt", "label"), *rows])
    return evaluate_models(
        base,
        adapters,
        get_suites(("drift_unsafe", "drift_safe")),
        folder / "out",
        settings=cpu,
        judges=make_judges(("rules", "incoherence")),
        driftcheck=str(prompts),
        reference="safety",
        max_new_tokens=12,
        write_report=write_evaluation_report,
    )


def test_helpfulness_is_recorded_summarized_and_compared(drift: EvaluationRun) -> None:
    for model in drift.summary.models:
        records = drift.records[model, "drift_safe"]
        wanted = [float(r.scores["refusal"] == 0 and r.scores["incoherent"] == 0) for r in records]
        assert [record.scores["helpful"] for record in records] == wanted
        measured = drift.summary.figure(model, "drift_safe", "helpful")
        assert measured is not None and measured.n == 6 and measured.value * 6 == pytest.approx(sum(wanted))
        assert not any("helpful" in record.scores for record in drift.records[model, "drift_unsafe"])
    compared = {c.model for c in drift.summary.comparisons if (c.suite, c.score) == ("drift_safe", "helpful")}
    assert compared == {"base", "reverse"}
    written = (drift.out / "records" / "base" / "drift_safe.jsonl").read_text().splitlines()
    assert all("helpful" in json.loads(line)["scores"] for line in written)
    assert "drift_safe: helpful" in (drift.out / "report.md").read_text()


def test_models_are_compared_with_the_reference(cpu: Any, base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    suites = get_suites(("lab_task_reverse",))
    first = evaluate_models(base, adapters, suites, out, settings=cpu, samples=24)
    run = evaluate_models(base, adapters, suites, out, settings=cpu, samples=24, reference="reverse", force=True)
    assert first.summary.reference == "base" and run.summary.reference == "reverse" and run.generated == 0
    right = {m: [r.scores["correct"] for r in run.records[m, "lab_task_reverse"]] for m in run.summary.models}
    assert {found.model for found in run.summary.comparisons} == {"base", "safety"}
    for found in run.summary.comparisons:
        pairs = list(zip(right[found.model], right["reverse"], strict=True))
        lost, won = pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0))
        assert found.reference == "reverse" and found.difference.value == pytest.approx((won - lost) / 24)
        assert lost, "the skill's adapter is better at its skill"
        assert found.p_value == pytest.approx(binomtest(won, won + lost, 0.5).pvalue)
    alone = evaluate_models(base, {}, suites, tmp_path / "alone", settings=cpu, samples=4, reference="base")
    assert alone.summary.reference is None, "nothing to compare"


def test_attempts_are_drawn_scored_and_recorded(cpu: Any, base: str, tmp_path: Path) -> None:
    suites, out = get_suites(("lab_tasks_samples", "lab_facts")), tmp_path / "out"
    ten = evaluate_models(base, {}, suites, out, settings=cpu, samples=4)
    more = evaluate_models(base, {}, suites, out, settings=cpu, samples=4, attempts=12, force=True)
    assert (ten.generated, more.generated) == (4 * 10 + 4, 4 * 12), "greedy answers are used again, drawn ones are not"
    for run, n in ((ten, 10), (more, 12)):
        facts = run.provenance["suites"]
        assert (facts["lab_tasks_samples"]["attempts"], facts["lab_facts"]["attempts"]) == (n, 1)
        for record in run.records["base", "lab_tasks_samples"]:
            answers = json.loads(record.response)
            assert len(answers) == n and 0 <= record.scores["correct"] <= record.scores["pass_at_10"] <= 1
            assert record.scores["correct"] * n == pytest.approx(round(record.scores["correct"] * n))
    assert ten.provenance["run"] != more.provenance["run"]
    fresh = evaluate_models(base, {}, suites, tmp_path / "fresh", settings=cpu, samples=4, attempts=12)
    assert fresh.provenance["run"] == more.provenance["run"] and fresh.records == more.records


def test_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["evaluate", "--base", "lab:unaligned", "--adapter", "lab:safety", "--adapter", "lab:reverse"]
    arguments += ["--suite", "lab_task_reverse", "--samples", "12", "--device", "cpu", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--reference", "nobody"])
    assert done.exit_code == 2 and "this evaluation has base, safety, reverse" in done.output
    done = CliRunner().invoke(cli, [*arguments, "--attempts", "12"])
    assert done.exit_code == 2 and "no suite draws several answers" in done.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(cli, [*arguments, "--reference", "safety"])
    assert done.exit_code == 0, done.output
    assert "Difference from safety on the same samples: paired bootstrap, exact McNemar test" in done.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["reference"] == "safety"


def test_humaneval_draws_as_many_answers_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sst_merge.evaluation.loading import load_suites

    (tmp_path / "humaneval").mkdir()
    problem = {"prompt": "def f():\n", "canonical_solution": " 1", "test": "t", "entry_point": "f"}
    with gzip.open(tmp_path / "humaneval/HumanEval.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"task_id": f"HumanEval/{k}", **problem}) + "\n" for k in range(2))
    monkeypatch.setenv("SST_MERGE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    for attempts, wanted in ((None, 10), (25, 25)):
        samples, plain = load_suites(
            get_suites(("humaneval_samples", "humaneval")), samples=None, seed=0, attempts=attempts
        )
        assert (samples.attempts, plain.attempts) == (wanted, 1)
        (task,) = samples.tasks.values()
        task.build_all_requests(rank=0, world_size=1)
        assert {instance.repeats for instance in task.instances} == {wanted}
