"""Command lines that are almost right."""

from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.almost_right import fuzz, within_five_seconds

from sst_merge.cli.main import cli

WORDS = st.sampled_from([
    "0",
    "-1",
    "1",
    "2",
    "nan",
    "inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "x",
    "",
    "[",
    "{a: 1}",
    "{" * 300,
    "2024-13-45",
    "a=b",
    "name=x,path=y",
    "sst",
    "ties",
    "~nobody-here",
    "\udcff",
    "cpu",
    "float32",
    ".",
    "/",
    "x" * 3000,
    "&a [*a]",
    "null",
    "true",
])
COMMANDS: dict[str, list[str]] = {
    "merge": [
        "--skill",
        "--safety",
        "--calibration",
        "--log-file",
        "--verbose",
        "--adapter",
        "--set",
        "--method",
        "--output",
        "--rank",
        "--energy",
        "--dtype",
        "--seed",
        "--device",
        "--compute-dtype",
        "--base-model",
        "--data-harm-path",
        "--data-harm-where",
        "--data-batch-size",
        "--force",
        "--dry-run",
    ],
    "inspect": ["--negligible", "--top", "--json", "--json-file", "--no-signs"],
    "evaluate": [
        "--base",
        "--suite",
        "--out",
        "--adapter",
        "--samples",
        "--attempts",
        "--seed",
        "--batch-size",
        "--max-new-tokens",
        "--judge",
        "--judge-check",
        "--labels",
        "--exclude",
        "--reference",
        "--device",
    ],
    "train": ["--base", "--data", "--output", "--rank", "--seed", "--device", "--dry-run", "--epochs", "--max-length"],
    "methods": ["--json", "--quiet", "--log-file"],
    "fisher add": ["--out", "--force"],
    "experiment exp1": ["--config", "--seeds", "--methods", "--num-experts", "--workers", "--dry-run"],
}
SWITCHES = {"--force", "--dry-run", "--json", "--no-signs", "--verbose", "--quiet"}
LINES = st.sampled_from(sorted(COMMANDS)).flatmap(
    lambda command: st.tuples(
        st.just(command.split()),
        st.lists(WORDS | st.just("ADAPTER"), max_size=2),
        st.lists(st.tuples(st.sampled_from(COMMANDS[command]), WORDS | st.just("ADAPTER")), max_size=4),
    )
)


@fuzz(0.08)
@given(drawn=LINES)
def test_command_lines(
    drawn: Any, build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "adapter"
    if not folder.exists():
        build.random_adapter({"m": (4, 3)}, name="a", rank=1).save(folder)
    command, places, flags = drawn
    words = [*command, *places]
    for flag, value in flags:
        words += [flag] if flag in SWITCHES else [flag, value]
    words = [str(folder) if word == "ADAPTER" else word for word in words]
    monkeypatch.chdir(folder.parent)
    with within_five_seconds():
        done = CliRunner().invoke(cli, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in {0, 2} and len(done.output) < 100_000
