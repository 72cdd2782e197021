"""What a killed process leaves behind, told by locks from what a living one works on; two folders that change places.

A lock of flock(2) ends with its process, however that ends. So a temporary folder (or the lock file beside a temporary
file) that can be locked belongs to nobody any more.
"""

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not Linux or macOS: nothing is taken for abandoned
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "LOCK",
    "OLD",
    "TEMPORARY",
    "exchange",
    "left_folders",
    "locked_file",
    "locked_folder",
    "remove_left_files",
    "remove_left_folders",
]

TEMPORARY, OLD, LOCK = ".tmp", ".old", ".lock"

_DRAWN = "[a-z0-9_]{8}"  # by tempfile.mkdtemp
_HEX = "[0-9a-f]{16}"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def locked_folder(parent: Path, name: str, suffix: str) -> Iterator[Path]:
    """A new folder beside a target, locked while the block runs; it is not removed.

    Args:
        parent: where it is made.
        name: of the target.
        suffix: :data:`TEMPORARY` or :data:`OLD`.

    Yields:
        The folder.
    """
    folder, descriptor = _made_and_locked(parent, name, suffix)
    try:
        yield folder
    finally:
        os.close(descriptor)


def _made_and_locked(parent: Path, name: str, suffix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=suffix, dir=parent))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            _lock(descriptor)
            # Another process may have taken it for abandoned before it was locked.
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


@contextmanager
def locked_file(lock: Path) -> Iterator[None]:
    """A lock file of its own name, which is there and locked while the block runs."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def left_folders(parent: Path, name: str, suffix: str) -> list[Path]:
    """Folders for a target that were made by :func:`locked_folder`, by living processes or dead ones."""
    pattern = re.compile(rf"\.{re.escape(name)}\.{_DRAWN}{re.escape(suffix)}")
    return [parent / found for found in _names(parent) if pattern.fullmatch(found)]


def remove_left_folders(parent: Path, name: str) -> None:
    """Remove what dead processes left of a target, and put a folder back that one had moved away and not replaced."""
    for folder in left_folders(parent, name, OLD):
        with _claimed(folder) as mine:
            if mine:
                with suppress(OSError):  # there is something at the target
                    (folder / name).rename(parent / name)
                shutil.rmtree(folder, ignore_errors=True)
    for folder in left_folders(parent, name, TEMPORARY):
        with _claimed(folder) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)


def remove_left_files(target: Path) -> None:
    """Remove temporary files for a target that dead processes left."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_HEX}{re.escape(LOCK)}")
    for name in _names(target.parent):
        lock = target.with_name(name)
        if pattern.fullmatch(name):
            with _claimed(lock) as mine:
                if mine:
                    lock.with_name(name.removesuffix(LOCK)).unlink(missing_ok=True)
                    lock.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step.

    Returns:
        False where the system has no such step; nothing has happened then.

    Raises:
        OSError: it has, and it failed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [entry.name for entry in entries]
    return []


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether nobody works on a file or folder; nobody else can claim it while the block runs."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield fcntl is not None and _lock_at_once(descriptor)
    finally:
        os.close(descriptor)


def _lock_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
