"""``--track``: figures of a command, step by step, for a tracker that the user has."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from .. import processes
from ..tracking import TRACKERS, check_tracker, open_tracker, tracking

__all__ = ["tracked", "with_track"]

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
_KEY = "sst_merge.track"


def with_track(function: AnyFunction) -> AnyFunction:
    """Give a command ``--track``; its work then stands in a block of :func:`tracked`."""
    return click.option(
        "--track",
        type=click.Choice(list(TRACKERS)),
        expose_value=False,
        callback=_keep,
        help="send figures of every step to a tracker (an extra of its name); off by default",
    )(function)


def _keep(context: click.Context, _option: click.Parameter, name: str | None) -> None:
    if name is not None and not context.resilient_parsing:
        check_tracker(name)
        context.meta[_KEY] = name


def tracked(config: BaseModel, output: Path) -> AbstractContextManager[None]:
    """The block in which a command's figures are sent, where ``--track`` asks for it; of a launcher's, by the first.

    Args:
        config: of the command; it is kept with the run.
        output: of the command; the run is called by both.

    Returns:
        The block.
    """
    context = click.get_current_context(silent=True)
    name = None if context is None else context.meta.get(_KEY)
    if context is None or name is None or not processes.speaks():
        return nullcontext()
    settings = config.model_dump(mode="json")
    return tracking(open_tracker(name, f"{context.command.name} {output.name}", settings))
