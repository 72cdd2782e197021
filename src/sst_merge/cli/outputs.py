"""Files that a command writes, refused before the work where they exist."""

from pathlib import Path

from ..errors import ConfigError, OutputExistsError

__all__ = ["check_target"]


def check_target(path: Path, *, option: str, force: bool) -> None:
    """Refuse an output file that exists, or whose folder does not.

    Raises:
        OutputExistsError: the file exists and ``force`` is off.
        ConfigError: its folder does not exist.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists already; choose another {option}, or replace it with --force")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {path}: the folder {path.absolute().parent} does not exist; make it first")
