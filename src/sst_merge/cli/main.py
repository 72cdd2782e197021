"""``sst-merge``: the group of commands; each lives in its own file and is imported when it is called."""

import errno
import os
import signal
import sys
from types import ModuleType
from typing import Any

import click

from .._version import __version__
from ..errors import BaseModelError, SSTMergeError
from ..machine import memory_is_full
from ..processes import speaks
from .console import say_error, warn
from .groups import CommandGroup
from .several import with_processes
from .terminal_warnings import hush_libraries, own_warnings
from .voice import remember_words, voice, with_voice

__all__ = ["cli", "main"]

_SMALLER = (
    "Make batches smaller (data.batch_size or data.batch_tokens; batch_size of an evaluation), load the model in "
    "bfloat16 (--model-dtype), or spread it over devices (--device-map auto)"
)

_SUMMARIES = {
    "merge": "Merge adapters into one, by any method.",
    "export": "Write an adapter for servers, as GGUF or as a whole model; push it.",
    "extract": "Make an adapter of a fine-tuned model and its base.",
    "inspect": "Measure adapters before a merge: sizes, collisions, ranks.",
    "methods": "List the merge methods, and explain the options of one.",
    "data": "Show what a file of prompts and answers is recognised as.",
    "train": "Train one adapter: a skill, or safety.",
    "fisher": "Collect Fisher statistics, and add them up.",
    "evaluate": "Safety, over-refusal, utility and drift of a base and adapters.",
    "search": "Find method, strength and rank on dev prompts.",
    "experiment": "The three experiments on the lab, resumable, with tables.",
    "lab": "The small world with ground truth: build it, find its files, evaluate.",
    "env": "What is installed, and whether it is new enough.",
    "demo": "Merge skill and safety in the lab and plot what came out.",
}


def _command(name: str) -> click.Command | None:
    """Import one command; the others stay unread."""
    home: ModuleType
    match name:
        case "merge":
            from . import merge as home
        case "export":
            from . import export as home
        case "extract":
            from . import extract as home
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
        case "search":
            from . import search as home
        case "experiment":
            from . import experiment as home
        case "lab":
            from . import lab as home
        case "env":
            from . import env as home
        case "demo":
            from . import demo as home
        case _:
            return None
    command = getattr(home, name)
    assert isinstance(command, click.Command)
    return with_voice(with_processes(name, command))


class _LazyGroup(CommandGroup):
    """Knows its commands by name and imports one when it is called; turns expected errors into one message."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        words = list(args)
        context = super().make_context(info_name, args, parent, **extra)
        remember_words(context, words)
        if os.environ.get("NO_COLOR"):
            context.color = False  # the tables' library looks for itself
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click's own version imports every command to ask for its short help.
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from .env import too_old

        if speaks():
            for problem in too_old():
                warn(problem)
        try:
            with own_warnings():
                return super().invoke(ctx)
        except (SSTMergeError, OSError) as error:
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if ctx.params.get("debug") or broken_pipe:
                voice().write_error(error)
                raise
            say_error(error)
            ctx.exit(2)
        except click.UsageError as error:
            if not speaks():
                ctx.exit(error.exit_code)
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            voice().write_error(error)
            if not memory_is_full(error) or ctx.params.get("debug"):
                raise
            say_error(BaseModelError(f"memory is full: {str(error).splitlines()[0]}. {_SMALLER}"))
            ctx.exit(2)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="SST-Merge: merge LoRA adapters so that safety arrives and skills stay.",
    epilog="Start here: sst-merge merge --base BASE --skill ADAPTER --safety ADAPTER -o out/merged --dry-run",
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
    hush_libraries(sys.argv[1:])
    cli(prog_name="sst-merge")


def _stop(number: int, _frame: object) -> None:
    """End as an interrupt does, so that nothing half-written stays, with the status that a shell expects.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(128 + number)
