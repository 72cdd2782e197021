"""A filter on system calls: a list of those allowed, and all others are refused by the kernel.

Namespaces already keep the program from the host; the filter keeps it from the rarer parts of the kernel (where
escapes are found), from memory that no limit counts, and from other programs and, by default, other processes.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable

from .calls import ALLOWED, REFUSED, Numbers
from .libc import ARCHITECTURE, PR_SET_SECCOMP, JailError, prctl

__all__ = ["filter_system_calls"]

_AUDIT = (0xC000003E, 0xC00000B7)  # x86_64, aarch64

_SOCKETS: tuple[tuple[int, int], ...] = ((41, 198), (53, 199))  # socket, socketpair
_CLONE = (56, 220)
_FORKS: tuple[Numbers, ...] = ((57, None), (58, None))  # fork, vfork
_AF_UNIX = 1
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080  # every namespace flag
_X32 = 0x40000000

# Offsets in struct seccomp_data; arguments are 64 bits wide, little-endian.
_NUMBER, _MACHINE, _ARGUMENT0 = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_system_calls(*, processes: bool) -> None:
    """Install the filter on this process and all that it starts, for good; it may start threads, processes if allowed.

    Raises:
        JailError: the kernel has no such filter, or its system call numbers are not known for this processor.
    """
    if ARCHITECTURE is None:
        raise JailError("system calls can be filtered on x86_64 and aarch64 only")
    code = b"".join(_instructions(ARCHITECTURE, processes=processes))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), purpose="filtering system calls")


def _instructions(machine: int, *, processes: bool) -> list[bytes]:
    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    def answer(numbers: Iterable[Numbers], verdict: int) -> list[bytes]:
        found = [pair[machine] for pair in numbers]
        steps = [[step(_EQUAL, number, 0, 1), step(_RETURN, verdict)] for number in found if number is not None]
        return [part for pair in steps for part in pair]

    program = [step(_LOAD, _MACHINE), step(_EQUAL, _AUDIT[machine], 1, 0), step(_RETURN, _KILL), step(_LOAD, _NUMBER)]
    if machine == 0:
        program += [step(_AT_LEAST, _X32, 0, 1), step(_RETURN, _KILL)]
    program += answer(ALLOWED.values(), _ALLOW)
    program += answer(REFUSED.values(), _ERRNO | errno.EPERM)
    program += answer(_FORKS, _ALLOW if processes else _ERRNO | errno.EAGAIN)
    program += [step(_EQUAL, _CLONE[machine], 0, 5), step(_LOAD, _ARGUMENT0)]
    program += [step(_ANY_BIT, _CLONE_NEW, 1, 0)]
    program += [step(_RETURN, _ALLOW) if processes else step(_ANY_BIT, _CLONE_THREAD, 1, 0)]
    program += [step(_RETURN, _ERRNO | errno.EAGAIN), step(_RETURN, _ALLOW)]
    for numbers in _SOCKETS:
        # Sockets between own threads are fine; every other family reaches outside or deep into the kernel.
        program += [step(_EQUAL, numbers[machine], 0, 4), step(_LOAD, _ARGUMENT0)]
        program += [step(_EQUAL, _AF_UNIX, 1, 0), step(_RETURN, _ERRNO | errno.EACCES), step(_RETURN, _ALLOW)]
    # Among what is left is clone3: without it the C library takes clone, whose flags a filter can read.
    program.append(step(_RETURN, _ERRNO | errno.ENOSYS))
    return program
