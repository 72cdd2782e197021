"""Linux system calls that Python has no function for, each failing with a message that names the call."""

import ctypes
import os
import platform

__all__ = ["ARCHITECTURE", "JailError", "drop_capabilities", "libc_call", "prctl", "system_call"]

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

# Column of the tables of system call numbers; None where the numbers are not known.
ARCHITECTURE: int | None = {"x86_64": 0, "aarch64": 1}.get(platform.machine())

_CAPABILITY_VERSION_3 = 0x20080522
_NUMBERS = {"capset": (126, 91), "pivot_root": (155, 41), "mount_setattr": (442, 442)}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class JailError(Exception):
    """A part of the isolation could not be set up; nothing has been run."""


def _why(name: str, purpose: str) -> str:
    number = ctypes.get_errno()
    return f"{name} failed with {os.strerror(number)} (errno {number}) while {purpose}"


def libc_call(name: str, *arguments: object, purpose: str) -> int:
    """Call a function of the C library with numbers, bytes, None or ctypes objects; the purpose is for messages.

    Raises:
        JailError: it returned a negative number.
    """
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        raise JailError(_why(name, purpose))
    return result


def system_call(name: str, *arguments: object, purpose: str) -> int:
    """Call the kernel, as :func:`libc_call` does, where the C library may lack the function.

    Raises:
        JailError: it failed, or its number is not known for this processor.
    """
    if ARCHITECTURE is None:
        raise JailError(f"system call numbers are not known for the processor {platform.machine()!r}")
    result = int(_libc.syscall(ctypes.c_long(_NUMBERS[name][ARCHITECTURE]), *arguments))
    if result < 0:
        raise JailError(_why(name, purpose))
    return result


def prctl(option: int, value: object, extra: object = 0, *, purpose: str) -> None:
    """Set a property of this process."""
    wide = [ctypes.c_ulong(part) if isinstance(part, int) else part for part in (value, extra, 0, 0)]
    libc_call("prctl", ctypes.c_int(option), *wide, purpose=purpose)


def drop_capabilities() -> None:
    """Give up every capability, also over the own user namespace, for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    system_call("capset", header, data, purpose="dropping capabilities")
    prctl(PR_SET_NO_NEW_PRIVS, 1, purpose="ruling out new privileges")
