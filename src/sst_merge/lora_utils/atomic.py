"""A folder that appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputExistsError

__all__ = ["atomic_folder"]


@contextmanager
def atomic_folder(path: str | Path, *, force: bool) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``; it takes the name ``path`` when the block ends without exception.

    Args:
        path: folder to make; missing parents are made and stay.
        force: replace an existing folder (only at the end, when the new one is complete).

    Yields:
        The temporary folder, to be filled.

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is off, or it is a file, or replacing it would delete the
            current folder.
    """
    target = Path(path).absolute()
    _check(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        # mkdtemp makes private folders; the result gets the permissions that a plain mkdir would give.
        mode = os.umask(0)
        os.umask(mode)
        temporary.chmod(0o777 & ~mode)
        yield temporary
        _check(target, force)
        _take_name(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".old", dir=target.parent) as aside:
        old = target.rename(Path(aside) / "old")
        try:
            temporary.rename(target)
        except BaseException:  # an interrupt as well: otherwise the old folder would go with `aside`
            old.rename(target)
            raise


def _check(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise OutputExistsError(f"{target} exists already; choose another output, or replace it with force (--force)")
    if target.is_symlink() or not target.is_dir():
        raise OutputExistsError(f"{target} is no plain folder, so it is not replaced; choose another output")
    if Path.cwd().is_relative_to(target.resolve()):
        raise OutputExistsError(f"{target} holds the current folder, so it is not replaced; choose another output")
