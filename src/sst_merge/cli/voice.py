"""How a command speaks: ``--json``, ``--quiet``, ``--verbose`` and ``--log-file``, which every command has."""

import contextlib
import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click

from .. import processes
from ..errors import ConfigError
from ..texts import visible

__all__ = ["Voice", "remember_words", "voice", "with_voice", "words_without"]

_KEY = "sst_merge.voice"
_WORDS = "sst_merge.words"
_LOGGER = logging.getLogger("sst_merge")
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


@dataclass
class Voice:
    """What one run of a command was told about its messages.

    Attributes:
        json_to: the real stdout, where it takes nothing but one JSON document; None without ``--json``.
        quiet: no progress, no remarks, no next step; results, warnings and errors stay.
        verbose: remarks about what is done and how long it took.
        log: file that gets all messages, or None.
    """

    json_to: TextIO | None = None
    quiet: bool = False
    verbose: bool = False
    log: logging.Logger | None = None

    def write(self, level: int, message: str) -> None:
        """A line of the log file, where there is one."""
        if self.log is not None:
            self.log.log(level, message)

    def write_error(self, error: BaseException) -> None:
        """Where an error came from, for the log file, where there is one."""
        if self.log is not None:
            self.log.error("%s", type(error).__name__, exc_info=error)


def voice() -> Voice:
    """The voice of the running command; a plain one outside of any."""
    context = click.get_current_context(silent=True)
    if context is None:
        return Voice()
    found = context.meta.setdefault(_KEY, Voice())
    assert isinstance(found, Voice)
    return found


def remember_words(context: click.Context, words: list[str]) -> None:
    """Keep the command line as it was given, for the log file."""
    context.meta.setdefault(_WORDS, list(words))


def words_without(flag: str) -> list[str]:
    """The command line as it was given, with its name and without one flag."""
    context = click.get_current_context(silent=True)
    # A script of experiments/ calls the same functions without the command.
    words = sys.argv if context is None else ["sst-merge", *context.meta.get(_WORDS, [])]
    return [word for word in words if word != flag]


def with_voice(command: click.Command) -> click.Command:
    """Give a command, or every command of a group, the four options; once."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_voice(inner)
    elif not any(option.name == "as_json" for option in command.params):
        command.params += _options()
    return command


def _options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_speak_json,
            help="print the result as JSON, and nothing else on stdout",
        ),
        click.Option(
            ["--quiet", "-q"], is_flag=True, expose_value=False, callback=_speak, help="no progress and no remarks"
        ),
        click.Option(
            ["--verbose", "-v"], is_flag=True, expose_value=False, callback=_speak, help="say what is done and how long"
        ),
        click.Option(
            ["--log-file"],
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_open_log,
            help="also write all messages to this file, with times; an existing one is continued",
        ),
    ]


def _speak_json(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        voice().json_to = sys.stdout
        # Whatever a library prints, stdout holds one document.
        context.find_root().with_resource(contextlib.redirect_stdout(sys.stderr))


def _speak(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        setattr(voice(), str(option.name), True)


def _open_log(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing or not processes.speaks():
        return
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--log-file {path}: the folder {path.absolute().parent} does not exist; make it first")
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(_FORMAT))
    level = _LOGGER.level
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.addHandler(handler)

    def close() -> None:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
        handler.close()

    root = context.find_root()
    root.call_on_close(close)
    voice().log = _LOGGER
    voice().write(logging.INFO, visible(shlex.join(["sst-merge", *root.meta.get(_WORDS, ())])))
