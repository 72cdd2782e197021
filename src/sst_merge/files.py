"""Files and folders that are whole or absent, and what a file holds as one number.

Whatever the package writes goes through here: to another name first, renamed when it is complete.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputExistsError

__all__ = ["atomic_file", "atomic_folder", "file_sha256"]

_CHUNK = 1 << 20


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
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


def file_sha256(file: Path) -> str:
    """SHA-256 of a file.

    Args:
        file: the file, of any size.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
