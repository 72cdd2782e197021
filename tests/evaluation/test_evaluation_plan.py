"""What an evaluation will ask is known before a model is loaded; oracle: what lm-evaluation-harness then asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.evaluation.answers import AnswerStore
from sst_merge.evaluation.loading import load_suites
from sst_merge.evaluation.serving import ServedModel
from sst_merge.evaluation.silence_libraries import quiet_libraries
from sst_merge.evaluation.workload import workload
from sst_merge.suites import get_suites


@pytest.mark.parametrize("name", ["options", "lab_task_reverse", "lab_tasks_samples"])
def test_requests_are_those_that_the_model_gets(
    open_model: Any, stand_in: Any, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    suite = stand_in() if name == "options" else get_suites((name,))[0]
    asked: list[tuple[str, Any]] = []
    kind = "loglikelihood" if name == "options" else "generate_until"
    answer = getattr(ServedModel, kind)
    monkeypatch.setattr(
        ServedModel, kind, lambda self, requests: asked.extend(r.args for r in requests) or answer(self, requests)
    )
    with quiet_libraries():
        (planned,) = load_suites([suite], samples=6, seed=0, max_new_tokens=5)
        (loaded,) = load_suites([suite], samples=6, seed=0, max_new_tokens=5)
        models, served = open_model(base)
        tokenizer = models.lm.tokenizer
        requests = list(planned.requests(tokenizer, chat_template=True))
        load = workload(planned, tokenizer, chat_template=True, batch_size=4)
        served.store = AnswerStore(tmp_path / "answers.jsonl", {})
        loaded.ask(served, "base", chat_template=True, allow_code=False)

    def size(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert load.suite == suite.name and load.prompts == 6
    if name == "options":
        assert sorted((r.prompt, r.option) for r in requests) == sorted(asked)
        # The four options have one token each, so a prompt is read once.
        assert {size(option) for _, option in asked} == {1}
        assert load.read == sum(map(size, {prompt for prompt, _ in asked}))
        assert (load.answers, load.written) == (0, 0)
        assert load.scored == max(size(prompt) + size(option) for prompt, option in asked)
    else:
        drawn = sorted(r.prompt for r in requests for _ in range(r.times))
        assert drawn == sorted(prompt for prompt, _ in asked)
        assert {settings["max_gen_toks"] for _, settings in asked} == {5}
        assert load.answers == len(asked) == (6 if name == "lab_task_reverse" else 60)
        assert load.read == sum(size(prompt) for prompt, _ in asked)
        assert load.written == 5 * len(asked)


def test_a_dry_run_loads_no_model_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sst_merge.evaluation.hf as hf

    monkeypatch.setattr(hf, "load_base_model", lambda *_, **__: pytest.fail("a model was loaded"))
    arguments = ["evaluate", "--base", "lab:unaligned", "--adapter", "lab:safety", "--suite", "lab_facts,lab_choices"]
    arguments += ["--samples", "5", "--device", "cpu", "--out", str(tmp_path / "out"), "--dry-run"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["models"] == ["base", "safety"]
    facts, choices = found["suites"]
    assert (facts["prompts"], facts["answers"], choices["prompts"], choices["answers"]) == (5, 5, 5, 0)
    assert found["memory"] > 0 and 0 < found["seconds_a_model"]["shortest"] < found["seconds_a_model"]["longest"]
    said = CliRunner().invoke(cli, arguments)
    assert said.exit_code == 0 and "2 models" in said.output and "--dry-run" not in said.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("sst_merge.cli.evaluate_plan.available_memory", lambda device, spread: 0)
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 2 and "--batch-size" in refused.output
