"""Commands in narrow and wide terminals, without colour, and without what libraries say."""

import os
import sys
import warnings

import click
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from sst_merge.cli.console import say, warn
from sst_merge.cli.main import cli
from sst_merge.cli.terminal_warnings import hush_libraries
from sst_merge.methods import available_methods


@pytest.mark.parametrize("width", [60, 80, 160])
def test_tables_of_commands_fit_and_no_name_is_cut(width: int) -> None:
    for words in (["methods"], ["env"], ["evaluate", "--list-suites"]):
        found = CliRunner().invoke(cli, words, env={"COLUMNS": str(width)})
        lines = found.stdout.splitlines()
        assert max(map(cell_len, lines)) <= width, words
        if words == ["methods"]:
            assert all(any(f" {name} " in line for line in lines) for name in available_methods())


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_break_between_words_where_a_terminal_would_break_within(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/" + "long/" * 12
    told = f"{path}: no such folder; expected one that holds an adapter, as PEFT writes it"
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    warn(told)
    say(f"time     {told}")
    shown = capsys.readouterr()
    for lines in (click.unstyle(shown.err).splitlines(), shown.out.splitlines()):
        assert " ".join(" ".join(lines).split()).partition(" ")[2] == told
        assert all(len(line) <= 50 or line.split() == [f"{path}:"] for line in lines) == terminal
    assert not terminal or shown.out.splitlines()[-1].startswith(" " * 9), "below the beginning of what is labelled"


def test_no_color_is_heeded_where_there_are_colours() -> None:
    for wanted, env in ((True, {"NO_COLOR": ""}), (False, {"NO_COLOR": "1"})):
        found = CliRunner().invoke(cli, ["methods", "linear"], env=env, color=True)
        assert ("\x1b[" in found.stderr) == wanted


def test_libraries_are_hushed_and_we_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
    for name in names:
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.resetwarnings()
        hush_libraries(["merge", "--debug"])
        assert not set(names) & set(os.environ)
        hush_libraries(["merge"])
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1", "under pytest stderr is no terminal"
        for module in ("transformers.modeling_utils", "peft", "sst_merge.cli.main"):
            warnings.warn_explicit(module, FutureWarning, "f.py", 1, module=module)
    assert [str(warning.message) for warning in said] == ["sst_merge.cli.main"]
