"""``sst-merge evaluate`` whose models answer in other processes: the same bytes, and nothing is asked twice."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sst_merge.cli import evaluate_elsewhere
from sst_merge.cli.main import cli
from sst_merge.evaluation.config import EvaluationConfig

pytest.importorskip("lm_eval", reason="the extra eval is not installed")


class Here(Executor):
    """Does at once what it is given, pickled as for another process."""

    done: list[str] = []  # noqa: RUF012

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        import pickle

        function, (inner, piece) = pickle.loads(pickle.dumps((work, given)))
        found: Future[Any] = Future()
        found.set_result(function(inner, piece))
        self.done.append(piece.model)
        return found


class Elsewhere:
    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pools(self, pieces: int) -> Sequence[Executor]:
        return [Here()] * pieces


def test_models_answer_elsewhere_as_they_do_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "questions.jsonl"
    own.write_text(json.dumps({"prompt": "what kind of thing is a nothing ?", "answer": "it is a toy"}) + "\n")
    words = ["evaluate", "--base", "lab:unaligned", "--adapter", "lab:reverse", "--suite", f"lab_task_reverse,{own}"]
    words += ["--samples", "2", "--device", "cpu", "--max-new-tokens", "8", "--quiet", "--json"]
    monkeypatch.setattr(evaluate_elsewhere, "workers_of", lambda count, scheduler: Elsewhere())
    outs = {}
    for name, more in {"there": ["--workers", "2"], "here": []}.items():
        done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        assert "given here again" not in done.stderr, "what was answered there is not asked here"
        kept = [p for p in (tmp_path / name).rglob("*") if p.is_file() and p.suffix in {".jsonl", ".json", ".csv"}]
        outs[name] = {p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in kept}
    assert Here.done == ["base", "reverse"]
    assert outs["there"] == outs["here"]


def test_a_base_beside_the_user_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[evaluate_elsewhere.Piece] = []
    monkeypatch.setattr(evaluate_elsewhere, "share_out", lambda _work, pieces, *_: given.extend(pieces))
    monkeypatch.setattr(evaluate_elsewhere, "workers_of", lambda *_: Elsewhere())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    for base in ("models/base", "models/no-folder"):
        config = EvaluationConfig(base=base, suites=("mmlu",), out=tmp_path)
        ask = evaluate_elsewhere.asker(config, base, None, 0, (), count=2, scheduler=None)
        ask({}, tmp_path / "cache")
    assert [piece.base for piece in given] == [str(tmp_path / "models" / "base"), "models/no-folder"]


@pytest.mark.parametrize("flag", ["--workers", "--scheduler"])
def test_a_launcher_leaves_nothing_for_workers(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sst_merge.cli.several._together", lambda work, *args, **values: work(*args, **values))
    words = ["evaluate", "--base", "b", "--suite", "mmlu", "--out", str(tmp_path / "out"), flag, "2"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2 and f"{flag}: not together with a launcher, which started 2" in done.stderr
