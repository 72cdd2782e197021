"""Files that a command writes: refused before the work where they exist, and whole or absent after it."""

from pathlib import Path

from ..errors import ConfigError, OutputExistsError
from ..files import atomic_file

__all__ = ["check_target", "write_text"]


def check_target(path: Path, *, option: str, force: bool) -> None:
    """Refuse an output file that exists, or whose folder does not.

    Args:
        path: file to write.
        option: flag that names it, for the message.
        force: an existing file may be replaced.

    Raises:
        OutputExistsError: the file exists and ``force`` is off.
        ConfigError: its folder does not exist.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists already; choose another {option}, or replace it with --force")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {path}: the folder {path.absolute().parent} does not exist; make it first")


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all.

    Args:
        path: file to write or replace.
        text: its contents.
    """
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
