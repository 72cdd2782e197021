"""One boundary around everything that reads files of others: whatever goes wrong there is the documented error.

Parsers fail in many ways that their pages do not list: nesting too deep for the stack, integers of too many digits,
dates that are none, halves of surrogate pairs, paths with a null byte. So readers do not list exceptions; they run
inside :func:`reading`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .errors import SSTMergeError
from .texts import bounded, is_text

__all__ = ["cause", "parse_json", "read_bounded", "reading", "reads"]

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def reading(where: object, kind: type[SSTMergeError], expected: str, advice: str) -> Iterator[None]:
    """Turn every failure of a block into one documented error; this package's own errors pass.

    Args:
        where: file, or field, that is read, for the message.
        kind: the error that the block's caller documents.
        expected: what should have been there.
        advice: what to do.

    Raises:
        SSTMergeError: of that kind, from whatever was raised inside.
    """
    try:
        yield
    except SSTMergeError:
        raise
    except Exception as error:
        raise kind(f"{where}: cannot be read as {expected} ({cause(error)}); {advice}") from error


def reads(
    kind: type[SSTMergeError], expected: str, advice: str, *, at: int = 0
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put a whole function inside :func:`reading`.

    Args:
        kind: as there.
        expected: as there.
        advice: as there.
        at: which positional argument is the place that is read.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            where = args[at] if len(args) > at else next(iter(kwargs.values()), function.__name__)
            with reading(where, kind, expected, advice):
                return function(*args, **kwargs)

        return inside

    return decorate


def cause(error: BaseException) -> str:
    """Why something could not be read, as one short phrase."""
    match error:
        case RecursionError():
            return "nested too deeply"
        case MemoryError():
            return "too large for this machine's memory"
        case FileNotFoundError():
            return "no such file"
        case IsADirectoryError():
            return "it is a folder"
        case UnicodeDecodeError():
            return f"not UTF-8 text at byte {error.start}"
        case OSError(strerror=str(reason)):
            return reason
        case json.JSONDecodeError():
            return f"line {error.lineno}: {error.msg}"
        case KeyError():
            return f"{bounded(str(error), 100)} is missing"
    said = bounded(" ".join(str(error).split()), 300)
    return said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}"


def parse_json(text: str | bytes) -> Any:
    r"""JSON whose texts can be written again.

    Args:
        text: a document.

    Returns:
        Its value.

    Raises:
        ValueError: not JSON, a number of too many digits, or half of a surrogate pair, which ``\ud800`` makes.
    """
    value = json.loads(text)
    marks = ("\\ud", "\\uD") if isinstance(text, str) else (b"\\ud", b"\\uD")
    if any(mark in text for mark in marks) and not is_text(json.dumps(value, ensure_ascii=False)):  # type: ignore[operator]
        raise ValueError("a text holds half of a surrogate pair (such as \\ud800), which is no character")
    return value


def read_bounded(path: Path, most: int) -> str:
    """A text file of at most so many bytes, UTF-8; no more than that is read of a longer one.

    Raises:
        ValueError: it is longer.
    """
    with path.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most >> 10} KiB")
    return data.decode("utf-8")
