"""``sst-merge``: the group of commands; each lives in its own file and is imported when it is called."""

import errno
import signal
import sys
from types import ModuleType
from typing import Any

import click

from .._version import __version__
from ..errors import SSTMergeError
from .console import say_error

__all__ = ["cli", "main"]

_SUMMARIES = {
    "merge": "Merge adapters into one, by any method.",
    "inspect": "Measure adapters before a merge: sizes, collisions, ranks.",
    "methods": "List the merge methods and their options.",
    "data": "Show what a file of prompts and answers is recognised as.",
    "train": "Train one adapter: a skill, or safety.",
    "fisher": "Collect Fisher statistics, and add them up.",
    "evaluate": "Safety, over-refusal, utility and drift of a base and adapters.",
    "experiment": "The three experiments on the lab, resumable, with tables.",
    "lab": "The small world with ground truth: build it, find its files, evaluate.",
    "demo": "Merge skill and safety in the lab and plot what came out.",
}


def _command(name: str) -> click.Command | None:
    """Import one command; the others stay unread."""
    home: ModuleType
    match name:
        case "merge":
            from . import merge as home
        case "inspect":
            from . import inspect as home
        case "methods":
            from . import methods as home
        case "data":
            from . import data as home
        case "train":
            from . import train as home
        case "fisher":
            from . import fisher as home
        case "evaluate":
            from . import evaluate as home
        case "experiment":
            from . import experiment as home
        case "lab":
            from . import lab as home
        case "demo":
            from . import demo as home
        case _:
            return None
    command = getattr(home, name)
    assert isinstance(command, click.Command)
    return command


class _LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is called; turns expected errors into one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _SUMMARIES and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}; there are {', '.join(_SUMMARIES)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click's own version imports every command to ask for its short help.
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SSTMergeError, OSError) as error:
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if ctx.params.get("debug") or broken_pipe:
                raise
            say_error(error)
            ctx.exit(2)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="SST-Merge: merge LoRA adapters so that safety arrives and skills stay.",
)
@click.version_option(__version__, prog_name="sst-merge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """The command itself; everything happens in its subcommands."""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 must not turn a report about ΔW into a crash.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    cli(prog_name="sst-merge")


def _stop(number: int, _frame: object) -> None:
    """End as an interrupt does, so that nothing half-written stays, with the status that a shell expects.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(128 + number)
