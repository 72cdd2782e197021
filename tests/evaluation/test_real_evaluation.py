"""The whole path on real rows and a real (tiny) model; needs the data folder."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from sst_merge.suites import load_set


@pytest.mark.data
@pytest.mark.sandbox
def test_real_rows_through_every_stage(
    real_data: Path, script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_evaluation = script("studies/real_evaluation/real_evaluation.py")
    options = {"steps": 4, "samples": 4, "max_new_tokens": 12, "seed": 0}
    run = real_evaluation.run(real_data, tmp_path, **options)
    models = ("base", "skill", "safety", "merged")
    assert run.summary.models == models
    for suite in real_evaluation.SUITES:
        ids = {model: [record.id for record in run.records[model, suite]] for model in models}
        assert len(set(map(tuple, ids.values()))) == 1 and len(ids["base"]) == 4
    rows = {row["id"]: row["prompt"] for row in load_set("xstest").rows}
    assert all(rows[record.id] == record.prompt for record in run.records["base", "xstest_safe"])
    for suite in ("beavertails", "xstest_safe", "xstest_unsafe"):
        for record in run.records["merged", suite]:
            assert {"refusal", "harm", "incoherent"} <= set(record.scores) and record.response
    assert {record.response for record in run.records["base", "mmlu"]} <= set("ABCD")
    answers = [record.response for record in run.records["base", "beavertails"]]
    assert answers != [record.response for record in run.records["safety", "beavertails"]]
    facts = json.loads((run.out / "run.json").read_text())
    assert facts["suites"]["beavertails"]["sets_sha256"]["beavertails"] == load_set("beavertails").sha256
    made_by = real_evaluation.command(argparse.Namespace(data=str(real_data), out=tmp_path, **options))
    assert made_by.endswith("real_evaluation.py --steps 4 --samples 4 --max-new-tokens 12 --seed 0")
    text = real_evaluation.page(run, 1.0, made_by)
    assert f"Made by `{made_by}`." in text and str(real_data) not in text and str(tmp_path) not in text
    assert "near chance" in text and all(f"| {suite}" in text for suite in ("mmlu", "xstest_safe: refusal"))
    adapters = {name: tmp_path / "adapters" / name for name in models[1:]}
    monkeypatch.setattr(real_evaluation, "make_adapters", lambda *_, **__: adapters)
    again = real_evaluation.run(real_data, tmp_path, **options)
    assert again.generated == 0, "same adapters, same requests: nothing was generated twice"
    assert [dict(r.scores) for r in again.records["merged", "xstest_safe"]] == [
        dict(r.scores) for r in run.records["merged", "xstest_safe"]
    ]
