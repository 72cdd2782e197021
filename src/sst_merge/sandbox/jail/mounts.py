"""The jail's file system: the interpreter's libraries, read-only, and one small empty folder that can be written."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from .libc import JailError, libc_call, system_call

__all__ = ["enter_root"]

_SCRATCH = "/tmp"  # inside the jail

_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")

_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTRIBUTE_READ_ONLY, _ATTRIBUTE_NOSUID, _ATTRIBUTE_NODEV = 1, 2, 4


def enter_root(stage: str, libraries: Sequence[str], scratch_bytes: int) -> None:
    """Make a root that holds nothing of the host but libraries, and move into it.

    Args:
        stage: an empty folder of the host to build it on; the host sees it empty throughout.
        libraries: folders to have, at the same place, besides the system's libraries.
        scratch_bytes: size of the folder that can be written.
    """
    _mount("none", "/", None, _RECURSIVE | _PRIVATE, None)
    _mount("jail", stage, "tmpfs", _NOSUID | _NODEV, f"size={1 << 20},nr_inodes=512,mode=755")
    for source in _outermost([*_SYSTEM, *libraries]):
        target = Path(stage + source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_symlink() and source in _SYSTEM:
            target.symlink_to(Path(source).readlink())
            continue
        _bind(source, target)
        _restrict(str(target), _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NOSUID | _ATTRIBUTE_NODEV)
    Path(stage, "dev").mkdir()
    for source in _DEVICES:
        if Path(source).exists():
            _bind(source, Path(stage + source))
    scratch = Path(stage + _SCRATCH)
    scratch.mkdir(exist_ok=True)
    os.chdir(stage)
    _restrict(stage, _ATTRIBUTE_READ_ONLY, recursive=False)
    options = f"size={scratch_bytes},nr_inodes=1024,mode=1777"
    _mount("scratch", str(scratch), "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    # The new root over the old one at the same place, then the old one is taken away from under it.
    system_call("pivot_root", b".", b".", purpose="changing the root folder")
    libc_call("umount2", b".", _DETACH, purpose="leaving the host's files behind")
    os.chdir(_SCRATCH)


def _outermost(paths: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if Path(path).exists()}):
        if not any(path.startswith(f"{outer}/") for outer in kept if not Path(outer).is_symlink()):
            kept.append(path)
    return kept


def _bind(source: str, target: Path) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    _mount(source, str(target), None, _BIND | _RECURSIVE, None)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    libc_call("mount", *words[:3], ctypes.c_ulong(flags), words[3], purpose=f"mounting {kind or source} on {target}")


def _restrict(target: str, attributes: int, *, recursive: bool = True) -> None:
    change = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    try:
        system_call(
            "mount_setattr",
            ctypes.c_int(_AT_FDCWD),
            os.fsencode(target),
            ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
            change,
            ctypes.c_size_t(ctypes.sizeof(change)),
            purpose=f"making {target} read-only",
        )
    except JailError as error:
        raise JailError(f"{error}; Linux 5.12 or newer has this call") from error
