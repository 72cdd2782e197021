"""Warnings on a terminal: our own are shown, those of libraries, which nobody there can act on, are not."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .console import warn

__all__ = ["hush_libraries", "own_warnings"]

_TALKATIVE = r"(accelerate|datasets|huggingface_hub|peft|tokenizers|torch|transformers)(\.|$)"


def hush_libraries(words: Sequence[str]) -> None:
    """Keep warnings of libraries off stderr, and their bars where stderr is no terminal; errors still show.

    Called before any of them is imported. What the user has set (``TRANSFORMERS_VERBOSITY``, ``PYTHONWARNINGS``) stays,
    and with ``--debug`` everything is said.

    Args:
        words: the command line.
    """
    if "--debug" in words:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty() or {"--quiet", "-q"} & set(words):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bar of a model's weights, too
    if not sys.warnoptions:
        for category in (FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=_TALKATIVE)


@contextmanager
def own_warnings() -> Iterator[None]:
    """Show what the package warns of as commands do, without the line of code that it comes from.

    Yields:
        Nothing.
    """
    package = Path(__file__).parents[1]
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], filename: str, *rest: Any, **named: Any) -> None:
            if package in Path(filename).parents:
                warn(str(message))
            else:
                before(message, category, filename, *rest, **named)

        warnings.showwarning = show
        yield
