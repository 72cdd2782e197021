"""What every command can do with its messages: JSON alone on stdout, less, more, a log file, and the next command."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.lora_utils import Adapter


@pytest.fixture(scope="module")
def adapter(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build.random_adapter({"model.layers.0.q_proj": (6, 5)}, name="code", rank=2, seed=0)
    factors = {module: made.factors(module) for module in made.modules}
    folder = tmp_path_factory.mktemp("place") / "code"
    Adapter.from_factors(factors, name="code").save(folder)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def leaves(command: click.Command, context: click.Context, name: str = "") -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    found = {}
    for inner in command.list_commands(context):
        below = command.get_command(context, inner)
        assert below is not None
        found |= leaves(below, context, f"{name} {inner}".strip())
    return found


def test_every_command_has_the_four_options() -> None:
    found = leaves(cli, click.Context(cli))
    assert {"merge", "fisher add", "lab evaluate", "demo", "evaluate"} <= set(found)
    for name, command in found.items():
        spellings = [spelling for option in command.params for spelling in option.opts]
        for wanted in ("--json", "--quiet", "--verbose", "--log-file"):
            assert spellings.count(wanted) == 1, (name, wanted)


def test_commands_end_with_the_next_one_unless_told_not_to(adapter: Path, tmp_path: Path) -> None:
    for words in (["methods"], ["methods", "ties"], ["inspect", adapter], ["evaluate", "--list-suites"]):
        assert re.match(r"Next: sst-merge \w+", call(*words).stderr.splitlines()[-1]), words
        assert "Next" not in call(*words, "--quiet").stderr
        done = call(*words, "--json")
        assert "Next" not in done.stderr
        json.loads(done.stdout)
    merged = call("merge", "--skill", adapter, "-o", tmp_path / "out")
    assert merged.stderr.splitlines()[-1].startswith("Next: sst-merge evaluate --base BASE --adapter ")
    planned = call("merge", "--skill", adapter, "-o", tmp_path / "new out", "--dry-run")
    assert planned.stderr.splitlines()[-1] == f"Next: sst-merge merge --skill {adapter} -o '{tmp_path / 'new out'}'"


def test_json_is_all_that_stdout_gets(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("merge", "--skill", adapter, "-o", tmp_path / "out", "--json")
    record = json.loads(done.stdout)
    assert record["output"] == str(tmp_path / "out") and record["method"] == "task_arithmetic" and record["rank"] == 2
    assert set(record["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert "Warning: no base model was given" in done.stderr
    # Whatever a library prints, too.
    monkeypatch.setattr("sst_merge.worlds.lab.build_lab", lambda *_, **__: print("a library speaks"))
    built = call("lab", "build", "--out", tmp_path / "lab", "--json")
    assert json.loads(built.stdout) == {"path": str(tmp_path / "lab")} and "a library speaks" in built.stderr
    refused = call("merge", "--skill", adapter, "-o", tmp_path / "out", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "") and "exists already" in refused.stderr


def test_quiet_verbose_and_log_file(adapter: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    arguments = ["merge", "--skill", adapter, "-o", tmp_path / "out", "--force"]
    plain, quiet = call(*arguments), call(*arguments, "-q")
    assert plain.stdout == quiet.stdout
    assert [line for line in quiet.stderr.splitlines() if not line.startswith("Warning: ")] == []
    verbose = call(*arguments, "-v", "--log-file", log)
    assert re.search(r"merge: 1 in \d+\.\d s", verbose.stderr) and "configuration: {" in verbose.stderr
    written = log.read_text(encoding="utf-8")
    for part in (f"sst-merge merge --skill {adapter}", "WARNING no base model was given", str(tmp_path / "out")):
        assert part in written
    assert call(*arguments[:-1], "--log-file", log).exit_code == 2
    later = log.read_text(encoding="utf-8").removeprefix(written)
    assert "ERROR   OutputExistsError" in later and "Traceback" in later
    assert "make it first" in call(*arguments, "--log-file", tmp_path / "no" / "log.txt").stderr


def test_unknown_names_get_the_closest(tmp_path: Path) -> None:
    assert "no such command 'evalaute' (did you mean 'evaluate'?)" in call("evalaute").stderr
    assert "no such command 'bild' (did you mean 'build'?)" in call("lab", "bild").stderr
    assert "'tise' (did you mean 'ties'?)" in call("methods", "tise").stderr
    assert "no adapter 'safty' on the unaligned base (did you mean 'safety'?)" in call("lab", "path", "safty").stderr
    asked = call("evaluate", "--base", "b", "--suite", "xtest_safe", "--out", tmp_path / "o")
    assert "unknown suite 'xtest_safe' (did you mean 'xstest_safe'?)" in asked.stderr


def test_shells_complete_commands_and_options() -> None:
    def offered(*words: str) -> list[str]:
        complete = BashComplete(cli, {}, "sst-merge", "_SST_MERGE_COMPLETE")
        return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]

    assert offered("me") == ["merge", "methods"]
    assert offered("merge", "--cal") == ["--calibration"] and offered("merge", "--calibration", "") == ["builtin"]


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "sst_merge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sst-merge, version ")


@pytest.mark.parametrize(
    "words", [["methods"], ["methods", "sst"], ["merge", "--help"], ["evaluate", "--help"], ["--help"]]
)
def test_nothing_is_wider_than_a_terminal_of_80_columns(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = call(*words).stdout.splitlines()
    assert [line for line in shown if len(line) > 80] == []
    # Nothing is cut either.
    assert "…" not in "".join(shown)
