"""What a terminal shows of warnings and of a full memory."""

import warnings
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

import sst_merge
from sst_merge.cli import main
from sst_merge.cli.terminal_warnings import own_warnings


def test_warnings_of_the_package_come_without_a_line_of_code(capsys: pytest.CaptureFixture[str]) -> None:
    own, other = Path(sst_merge.__file__).with_name("somewhere.py"), Path("library.py")
    with pytest.warns(UserWarning, match="look out") as left, own_warnings():
        warnings.warn_explicit("memory was full", UserWarning, str(own), 7)
        warnings.warn_explicit("look out", UserWarning, str(other), 8)
    assert len(left) == 1 and capsys.readouterr().err == "Warning: memory was full\n"


def test_a_full_memory_ends_with_what_to_make_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def merge() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(main, "_command", lambda _: merge)
    done = CliRunner().invoke(main.cli, ["merge"])
    assert done.exit_code == 2 and "memory is full: CUDA out of memory. Tried to allocate 2 GiB. Make" in done.stderr
    assert "Traceback" not in done.stderr and isinstance(done.exception, SystemExit)
    assert isinstance(CliRunner().invoke(main.cli, ["--debug", "merge"]).exception, torch.OutOfMemoryError)
