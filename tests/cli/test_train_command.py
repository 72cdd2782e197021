"""``sst-merge train``, from flags and from a file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.training.conftest import rows, write_base

from sst_merge.cli.main import cli
from sst_merge.lora_utils import Adapter

CONFIG = """
base: base
data:
  - skill.jsonl
  - {path: other.jsonl, share: 0.25}
output: out/skill
recipe: {rank: 2, learning_rate: 0.01, epochs: 1, batch_size: 8, dtype: float32}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    write_base(root / "base")
    for name, seed in (("skill", 1), ("other", 2)):
        lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows(24, seed=seed)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    (root / "train.yaml").write_text(CONFIG)
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *(str(argument) for argument in arguments)])


def test_a_file_and_flags_over_it(place: Path, tmp_path: Path) -> None:
    done = call(place / "train.yaml", "--output", tmp_path / "out", "--rank", "3", "--role", "safety")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert re.search(r"trained on 32 rows in 4 steps and \d+ s \(\d+ tokens/s\): loss [\d.]+ -> [\d.]+", done.stdout)
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert report["role"] == "safety"
    assert report["sources"] == {"skill.jsonl": 24, "other.jsonl": 8}
    assert report["recipe"]["rank"] == 3
    adapter = Adapter.load(tmp_path / "out")
    assert adapter.base_model == str(place / "base")
    assert {adapter.factors(module).a.shape[0] for module in adapter.modules} == {3}


def test_flags_alone(place: Path, tmp_path: Path) -> None:
    done = call(
        "--base", place / "base", "--data", f"{place / 'skill.jsonl'}:16", "--output", tmp_path / "out",
        "--target", "q_proj", "--target", "v_proj", "--epochs", "0.5", "--dtype", "float32", "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    modules = {module.rpartition(".")[2] for module in Adapter.load(tmp_path / "out").modules}
    assert modules == {"q_proj", "v_proj"}


def test_a_dry_run_says_what_would_be_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("sst_merge.data_loader.load_base_model", load)
    done = call(place / "train.yaml", "--dry-run", "--max-length", "6", "--base-revision", "v2")
    assert done.exit_code == 0, done.output
    assert "base_revision 'v2' is not used: the base" in done.stderr  # a folder has none
    lines = done.stdout.splitlines()
    assert lines[:2] == ["data     skill.jsonl: 24 rows", "data     other.jsonl: 8 rows"]
    assert re.fullmatch(r"rows     32, of which \d+ are cut at 6 tokens", lines[2])
    assert lines[3] == "steps    4 of 8 rows"
    assert re.fullmatch(r"tokens   \d+ in all steps, \d+ of them answers; \d+ are computed \(.*\)", lines[4])
    assert re.fullmatch(r"time     about \d+ s in float32 on cpu, within a factor of two", lines[5])
    assert lines[6].startswith("nothing written; without --dry-run the utility adapter goes to")
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "0"], "--rank (recipe.rank): Input should be greater than or equal to 1"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
        (["--target", "q_prj"], "did you mean 'q_proj'?"),
        (["--base", "absent/base"], "base model 'absent/base'"),
        (["--output", "PLACE/base/in"], "share a folder"),
        (["--output", "PLACE/there"], "exists already; choose another --output, or replace it with --force"),
        (["--accumulation", "9"], "take at most one part a sequence"),
        (["--role", "poison"], "is not one of 'utility', 'safety'"),
    ],
)
def test_faults(place: Path, arguments: list[str], message: str) -> None:
    (place / "there").mkdir(exist_ok=True)
    given = [argument.replace("PLACE", str(place)) for argument in arguments]
    done = call(place / "train.yaml", *given)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_anything_the_missing_fields_are_named_as_flags() -> None:
    done = call()
    assert done.exit_code == 2
    for flag in ("--base", "--data", "--output"):
        assert f"{flag} (" in done.stderr
