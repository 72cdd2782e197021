"""Namespaces of its own for the jail: users, mounts, processes, network, inter-process communication, names.

An ordinary user maps only itself, as 65534. Root maps the ids it has onto themselves, so that it can still read the
interpreter in folders closed to others while the mounts are made, and becomes 65534 afterwards: limits on processes
do not hold for root, and root owns too much.
"""

import os
from pathlib import Path

from .libc import JailError, libc_call

__all__ = ["become_nobody", "enter_namespaces"]

_NOBODY = 65534

_FLAGS = {
    "users": 0x10000000,
    "mounts": 0x00020000,
    "processes": 0x20000000,
    "network": 0x40000000,
    "inter-process communication": 0x08000000,
    "host names": 0x04000000,
    "control groups": 0x02000000,
}


def enter_namespaces() -> None:
    """Leave the host's namespaces; children are born into the new process namespace.

    Raises:
        JailError: the kernel or a container around this process does not permit it.
    """
    if os.geteuid() == 0:
        _enter_as_root()
    else:
        uid, gid = os.geteuid(), os.getegid()
        _unshare()
        _write_map("self", "setgroups", "deny")
        _write_map("self", "gid_map", f"{_NOBODY} {gid} 1")
        _write_map("self", "uid_map", f"{_NOBODY} {uid} 1")


def become_nobody() -> None:
    """Be user and group 65534 in the jail, without other groups.

    Raises:
        JailError: that user is not mapped here.
    """
    if os.geteuid() == _NOBODY:
        return
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError as error:
        raise JailError(
            f"cannot become user {_NOBODY}, who runs the program ({error}); this container has no such user id"
        ) from error


def _unshare() -> None:
    everything = 0
    for flag in _FLAGS.values():
        everything |= flag
    libc_call("unshare", everything, purpose=f"creating namespaces for {', '.join(_FLAGS)}")


def _enter_as_root() -> None:
    # The map must be written from outside, by someone who holds the capabilities that unsharing takes away.
    identity = {name: _identity(name) for name in ("uid_map", "gid_map")}
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    target = str(os.getpid())
    helper = os.fork()
    if helper == 0:
        try:
            os.close(go_write)
            if os.read(go_read, 1):
                for name, lines in identity.items():
                    _write_map(target, name, lines)
                os.write(done_write, b"1")
        except BaseException as error:
            os.write(done_write, b"0" + str(error).encode())
        finally:
            os._exit(0)
    try:
        os.close(done_write)
        _unshare()
        os.write(go_write, b"1")
        answer = os.read(done_read, 4000)
    finally:
        for descriptor in (go_read, go_write, done_read):
            os.close(descriptor)
        os.waitpid(helper, 0)
    if answer[:1] != b"1":
        raise JailError(answer[1:].decode(errors="replace") or "mapping the users failed without a message")


def _identity(name: str) -> str:
    lines = Path("/proc/self", name).read_text(encoding="ascii").splitlines()
    return "\n".join(f"{inside} {inside} {count}" for inside, _, count in (line.split() for line in lines))


def _write_map(process: str, name: str, content: str) -> None:
    path = Path("/proc", process, name)
    try:
        # One write call: the kernel takes a map only whole.
        with path.open("wb", buffering=0) as stream:
            stream.write(content.encode())
    except OSError as error:
        raise JailError(f"writing {path} failed ({error}) while mapping the jail's user") from error
