"""Files and folders that are whole or absent, and what a file holds as one number.

Whatever the package writes goes through here: to another name first, renamed when it is complete and on disk. So an
error leaves what was there before, and a killed process too. What a killed one leaves behind (names that begin with a
dot) is removed by the next process that writes to the same place; locks tell it from the work of a living one.
"""

import hashlib
import os
import shutil
import string
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from ._left_behind import (
    LOCK,
    OLD,
    TEMPORARY,
    exchange,
    left_folders,
    locked_file,
    locked_folder,
    remove_left_files,
    remove_left_folders,
)
from .errors import OutputExistsError

__all__ = [
    "atomic_file",
    "atomic_folder",
    "file_name",
    "file_sha256",
    "sealed_files",
    "synced",
    "unfinished",
    "write_text",
]

_CHUNK = 1 << 20
_PLAIN = frozenset(string.ascii_letters + string.digits + "._-")
_LONGEST = 90  # characters, so that two names and a digest fit into the 255 bytes that file systems allow


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file at; it takes its name when the block ends without error, and is removed otherwise.

    Args:
        path: of the file; an existing one is replaced, missing folders are made.

    Yields:
        Where to write, in the same folder; no other thread or process has the same place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:16]}")
    with locked_file(aside.with_name(f"{aside.name}{LOCK}")):
        remove_left_files(target)
        try:
            yield aside
            _sync(aside)
            aside.replace(target)
            _sync_folder(target.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, force: bool = False, keep_existing: bool = False) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``; it takes the name ``path`` when the block ends without exception.

    Args:
        path: folder to make; missing parents are made and stay.
        force: replace an existing folder (only at the end, when the new one is complete).
        keep_existing: an existing folder stays and the new one is removed, for work that several processes may do at
            once with the same result: the first one to finish wins.

    Yields:
        The temporary folder, to be filled.

    Raises:
        OutputExistsError: ``path`` exists and neither ``force`` nor ``keep_existing`` is set; with ``force``, it is a
            file, or replacing it would delete the current folder.
    """
    target = Path(path).absolute()
    remove_left_folders(target.parent, target.name)
    if not keep_existing:
        _check(target, force)
    with _temporary_folder(target.parent, target.name) as temporary:
        yield temporary
        _sync_all(temporary)
        if keep_existing:
            _rename_unless_there(temporary, target)
        else:
            _check(target, force)
            _take_name(temporary, target)
        _sync_folder(target.parent)


@contextmanager
def sealed_files(folder: str | Path, *, seal: str) -> Iterator[Path]:
    """Fill a temporary folder, whose files and folders then replace those of the same name in ``folder`` one by one.

    The seal goes first and comes last, so that a folder with a seal holds the pieces of one run. What else lies in the
    folder stays.

    Args:
        folder: where the pieces end up; made if it is missing.
        seal: name of the file that comes last.

    Yields:
        The temporary folder, to be filled.
    """
    target = Path(folder).absolute()
    target.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(target, seal) as temporary:
        yield temporary
        _sync_all(temporary)
        (target / seal).unlink(missing_ok=True)
        for piece in sorted(temporary.iterdir(), key=lambda piece: piece.name == seal):
            place = target / piece.name
            if place.is_dir():
                shutil.rmtree(place)
            piece.replace(place)
        _sync_folder(target)


@contextmanager
def synced(folder: Path) -> Iterator[None]:
    """Send the files of a folder to disk while the block runs, which may read them; so little is left to wait for.

    Args:
        folder: of files that are written and closed.

    Yields:
        Nothing.

    Raises:
        OSError: the system could not write one.
    """
    with ThreadPoolExecutor(1) as aside:
        sent = aside.submit(_sync_all, folder)
        yield
        sent.result()


def unfinished(folder: str | Path, *, seal: str) -> bool:
    """Whether a process that filled a folder by :func:`sealed_files` was killed while it moved the pieces there.

    Args:
        folder: where the pieces end up.
        seal: name of the file that comes last.

    Returns:
        True where its temporary folder is still there, and the seal is not. What is left beside a seal is removed.
    """
    target = Path(folder).absolute()
    if (target / seal).exists():
        remove_left_folders(target, seal)
        return False
    return bool(left_folders(target, seal, TEMPORARY))


def file_name(name: str) -> str:
    """Any text as a file name, and different texts as different file names.

    ASCII letters, digits, dots, dashes and underscores stay; every other byte of the text's UTF-8 is ``=`` and two
    hexadecimal digits, as in quoted-printable mail, and so is a dot at the beginning. A long name is cut and ends in
    ``==`` and its SHA-256.

    Args:
        name: such as an adapter's or a suite's; half of a surrogate pair is allowed.

    Returns:
        At most 90 ASCII characters; never empty, ``.``, ``..`` or hidden.

    Example:
        >>> file_name("code-v1.2"), file_name("数学"), file_name("a/b")
        ('code-v1.2', '=E6=95=B0=E5=AD=A6', 'a=2Fb')
    """
    data = name.encode("utf-8", "surrogatepass")
    coded = "".join(
        chr(byte) if chr(byte) in _PLAIN and (place or chr(byte) != ".") else f"={byte:02X}"
        for place, byte in enumerate(data)
    )
    if not coded:
        return "="
    if len(coded) <= _LONGEST:
        return coded
    digest = hashlib.sha256(data).hexdigest()[:32]
    return f"{coded[: _LONGEST - len(digest) - 2]}=={digest}"


def file_sha256(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder that is gone at the end unless it was renamed; locked, so that nobody takes it for abandoned."""
    parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(parent, name, TEMPORARY) as temporary:
        try:
            remove_left_folders(parent, name)
            # mkdtemp makes private folders; the result gets the permissions that a plain mkdir would give.
            mode = os.umask(0)
            os.umask(mode)
            temporary.chmod(0o777 & ~mode)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(file: Path) -> None:
    """Wait until a file's content is on disk: a name must not get there before what it names."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on disk, where the system can say so (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_symlink():
            continue
        if file.is_file():
            _sync(file)
        elif file.is_dir():
            _sync_folder(file)
    _sync_folder(folder)


def _rename_unless_there(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        # Tried rather than asked for first: another process may come in between.
        if not target.is_dir():
            raise


def _take_name(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # At no moment is there none of both; the old one goes with the temporary folder, whose name it has now.
    if exchange(temporary, target):
        return
    with locked_folder(target.parent, target.name, OLD) as aside:
        old = target.rename(aside / target.name)
        try:
            temporary.rename(target)
        except BaseException:  # an interrupt as well: otherwise the old folder would go with `aside`
            old.rename(target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _check(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise OutputExistsError(f"{target} exists already; choose another output, or replace it with force (--force)")
    if target.is_symlink() or not target.is_dir():
        raise OutputExistsError(f"{target} is not a plain folder, so it is not replaced; choose another output")
    if Path.cwd().is_relative_to(target.resolve()):
        raise OutputExistsError(f"{target} holds the current folder, so it is not replaced; choose another output")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all; an existing one is replaced."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
