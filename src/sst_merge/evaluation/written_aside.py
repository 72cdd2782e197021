"""Files that are whole or absent: written under another name, renamed when complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_aside"]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A place to write a file at; it takes its name when the block ends without error, and is removed otherwise.

    Args:
        path: of the file; an existing one is replaced, missing folders are made.

    Yields:
        Where to write, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
