"""A command that a launcher started several times: the processes share its work, and the first one speaks.

What a command does is the same in every process (:mod:`~sst_merge.processes`); so are its messages, and files must
not be written twice. Commands whose work is not shared are refused.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import click

from .. import processes
from ..errors import ConfigError, SSTMergeError
from .console import warn
from .voice import voice

__all__ = ["with_processes"]

_SHARED = frozenset({"merge", "fisher collect", "evaluate", "train"})
_ADVICE = "accelerate launch --num_processes N -m sst_merge merge CONFIG"


def with_processes(name: str, command: click.Command) -> click.Command:
    """Let a command, or every command of a group, share its work; with one process it is left as it is.

    Args:
        name: as it is typed, such as ``fisher collect``.
        command: changed in place, once.

    Returns:
        The command.
    """
    if processes.launched() == 1:
        return command
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            with_processes(f"{name} {inner}", found)
    elif command.callback is not None and not hasattr(command.callback, "started_by_launcher"):
        command.callback = _shared(name, command.callback)
    return command


def _shared(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def run(*args: Any, **values: Any) -> Any:
        if processes.launched() == 1:
            return work(*args, **values)
        if name not in _SHARED:
            if not processes.speaks():
                raise click.exceptions.Exit(2)
            raise ConfigError(
                f"sst-merge {name} runs in one process, and a launcher started {processes.launched()} (WORLD_SIZE); "
                f"start it without a launcher. Shared are: {', '.join(sorted(_SHARED))}, as in `{_ADVICE}`"
            )
        return _together(work, *args, **values)

    run.started_by_launcher = True  # type: ignore[attr-defined]
    return run


def _together(work: Callable[..., Any], *args: Any, **values: Any) -> Any:
    first = processes.speaks()
    try:
        with processes.joined(), contextlib.nullcontext() if first else _silent():
            return work(*args, **values)
    except (SSTMergeError, OSError) as error:
        if first:
            raise
        # The first process was told, and says it.
        raise click.exceptions.Exit(2) from error
    except SystemExit:
        # A launcher ends the others when one has died.
        if first:
            warn("stopped before the end; started again, the command goes on with what was collected")
        raise


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Say nothing; what is not expected (a traceback) comes after the block and is seen."""
    if voice().json_to is not None:
        voice().json_to = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
