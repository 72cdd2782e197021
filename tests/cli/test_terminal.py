"""Commands in narrow and wide terminals, without colour, and without what libraries say."""

import os
import warnings

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

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
