"""``--track``: what a tracker keeps is what the reports say; nothing is sent unless asked."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from pydantic import BaseModel
from tests.training.conftest import rows, write_base

from sst_merge.cli.evaluate import _track
from sst_merge.cli.main import cli
from sst_merge.cli.tracks import tracked, with_track
from sst_merge.errors import ConfigError
from sst_merge.tracking import TRACKERS, open_tracker, record, tracking


class Settings(BaseModel):
    """Of a command that has none."""


class Kept:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, dict[str, float]]] = []
        self.ended = 0

    def log(self, stage: str, step: int, figures: Any) -> None:
        self.seen.append((stage, step, dict(figures)))

    def end(self) -> None:
        self.ended += 1


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder of event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_nobody_listens_unless_asked() -> None:
    record("stage", 1, {"x": torch.tensor(1.0)})
    kept = Kept()
    with pytest.raises(KeyError), tracking(kept):
        record("stage", 2, {"x": torch.tensor(2.0), "y": 3})
        raise KeyError
    record("stage", 3, {"x": 3.0})
    assert kept.seen == [("stage", 2, {"x": 2.0, "y": 3.0})]
    assert kept.ended == 1


def test_the_pages_own_tracker(blocks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("tracking.md", "python")
    exec(program, {"__name__": "page"})
    assert capsys.readouterr().out == "training 1 {'loss': 2.5}\ndone\n"


def test_a_missing_package_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("sst_merge.tracking.find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["train", "--track", "wandb", "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "--track wandb: the package wandb is not installed" in done.stderr
    assert "pip install 'sst-merge[wandb]'" in done.stderr
    with pytest.raises(ConfigError):
        open_tracker("wandb", "run", {})


def test_every_loss_of_a_training_is_in_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base")
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows(16, seed=1)]
    Path("skill.jsonl").write_text("\n".join(lines))
    words = "train --base base --data skill.jsonl --output skill --rank 2 --batch-size 4 --epochs 1 --dtype float32"
    done = CliRunner().invoke(cli, [*words.split(), "--device", "cpu", "--track", "tensorboard"])
    assert done.exit_code == 0, done.output
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("train-skill_")
    losses = json.loads(Path("skill/training_report.json").read_text())["losses"]
    found = scalars(run)
    assert found["training/loss"] == [(i + 1, pytest.approx(loss)) for i, loss in enumerate(losses)]
    assert set(found) == {"training/loss", "training/learning_rate"}


def test_every_step_of_a_refinement_is_sent(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base")
    for seed, name in enumerate(("skill", "safety")):
        build.adapter_folder(build.tiny_model("llama"), Path(name), seed=seed, targets=["v_proj"], r=2)
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows(8, seed=1)]
    Path("rows.jsonl").write_text("\n".join(lines))
    words = "merge --base base --skill skill --safety safety --data-harm-path rows.jsonl --data-benign-path rows.jsonl"
    kept = Kept()
    with tracking(kept):
        done = CliRunner().invoke(cli, f"{words} --set mu=1 --set refine=3 -o out".split())
    assert done.exit_code == 0, done.output
    assert [(stage, step) for stage, step, _ in kept.seen] == [("refining", step) for step in (1, 2, 3)]
    assert all(figures["refusal"] < 0 <= figures["divergence"] for _, _, figures in kept.seen)


def test_an_evaluation_sends_the_means_of_its_overview(some_records: Any) -> None:
    from sst_merge.evaluation import summarize

    records = some_records()
    kept = Kept()
    with tracking(kept):
        _track(SimpleNamespace(summary=summarize(records)))  # type: ignore[arg-type]
    sent = {stage.removeprefix("evaluation/"): figures for stage, _, figures in kept.seen}
    assert set(sent) == {record.model for record in records}
    harm = [r.scores["harm"] for r in records if r.model == "safety" and "harm" in r.scores]
    assert sent["safety"]["beavertails/harm"] == pytest.approx(sum(harm) / len(harm))
    assert "mmlu/correct" not in sent["merge"]


def test_the_command_itself_sends_them(some_records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sst_merge.evaluation import summarize

    found, kept = SimpleNamespace(summary=summarize(some_records()), generated=0, out=tmp_path), Kept()
    monkeypatch.setattr("sst_merge.evaluation.evaluate_models", lambda *_, **__: found)
    monkeypatch.setattr("sst_merge.cli.tracks.check_tracker", lambda _: None)
    monkeypatch.setattr("sst_merge.cli.tracks.open_tracker", lambda *_: kept)
    words = ["evaluate", "--base", "b", "--suite", "mmlu", "--out", str(tmp_path / "out"), "--track", "tensorboard"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert {stage for stage, _, _ in kept.seen} == {f"evaluation/{model}" for model in found.summary.models}
    assert kept.ended == 1


@pytest.mark.parametrize(("rank", "runs"), [("0", 1), ("1", 0)])
def test_of_a_launchers_processes_one_opens_a_run(rank: str, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    for variable, value in {"WORLD_SIZE": "2", "RANK": rank}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sst_merge.cli.tracks.check_tracker", lambda _: None)
    monkeypatch.setattr("sst_merge.cli.tracks.open_tracker", lambda *_: kept)

    @click.command()
    @with_track
    def work() -> None:
        with tracked(Settings(), Path("out")):
            record("stage", 1, {"x": 1.0})

    assert CliRunner().invoke(work, ["--track", "tensorboard"]).exit_code == 0
    assert len(kept.seen) == kept.ended == runs


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_local_run_of_every_tracker(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"TRACKIO_DIR": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    for variable, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", **places}.items():
        monkeypatch.setenv(variable, value)
    package = pytest.importorskip(name)  # which may read them at once
    with tracking(open_tracker(name, "merge out", {"base_model": "base", "merge": {"refine": 2}})):
        for step in (1, 2):
            record("refining", step, {"refusal": -step})
        record("évaluation/a+b", 0, {"suite/score": 0.5})
    if name == "tensorboard":
        (run,) = Path("runs").iterdir()
        assert scalars(run)["refining/refusal"] == [(1, -1.0), (2, -2.0)]
    elif name == "mlflow":
        (run,) = package.search_runs(experiment_names=["sst-merge"], output_format="list")
        history = package.MlflowClient().get_metric_history(run.info.run_id, "refining/refusal")
        assert [(found.step, found.value) for found in history] == [(1, -1.0), (2, -2.0)]
        assert run.info.run_name == "merge out"
    else:
        kept = [path for path in tmp_path.rglob("*") if path.suffix in {".wandb", ".db", ".parquet"}]
        assert kept and all(path.stat().st_size for path in kept)
