"""A filter on system calls: what a function on plain data never needs is refused by the kernel.

Namespaces already keep the program from the host; the filter keeps it from the rarer parts of the kernel (where
escapes are found), from memory that no limit counts, and from other programs and, by default, other processes.
"""

import ctypes
import errno
import struct

from .libc import ARCHITECTURE, PR_SET_SECCOMP, JailError, prctl

__all__ = ["filter_system_calls"]

_AUDIT = (0xC000003E, 0xC00000B7)  # x86_64, aarch64

# name → number on x86_64 and on aarch64; None where the processor has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # mounts, namespaces, other processes
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # other programs
    "execve": (59, 221),
    "execveat": (322, 281),
    # memory that is neither address space nor scratch folder
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # large parts of the kernel that nothing here needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    # the machine's state
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "personality": (135, 92),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
}
_SOCKET, _CLONE, _CLONE3 = (41, 198), (56, 220), (435, 435)
_FORKS: tuple[tuple[int | None, int | None], ...] = ((57, None), (58, None))
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

    def refuse(number: int | None, error: int) -> list[bytes]:
        if number is None:
            return []
        return [step(_EQUAL, number, 0, 1), step(_RETURN, _ERRNO | error)]

    program = [step(_LOAD, _MACHINE), step(_EQUAL, _AUDIT[machine], 1, 0), step(_RETURN, _KILL), step(_LOAD, _NUMBER)]
    if machine == 0:
        program += [step(_AT_LEAST, _X32, 0, 1), step(_RETURN, _KILL)]
    for numbers in _REFUSED.values():
        program += refuse(numbers[machine], errno.EPERM)
    # The C library falls back to clone, whose flags a filter can read.
    program += refuse(_CLONE3[machine], errno.ENOSYS)
    if not processes:
        for numbers in _FORKS:
            program += refuse(numbers[machine], errno.EAGAIN)
    program += [step(_EQUAL, _CLONE[machine], 0, 5), step(_LOAD, _ARGUMENT0)]
    program += [step(_ANY_BIT, _CLONE_NEW, 1, 0)]
    program += [step(_RETURN, _ALLOW) if processes else step(_ANY_BIT, _CLONE_THREAD, 1, 0)]
    program += [step(_RETURN, _ERRNO | errno.EAGAIN), step(_RETURN, _ALLOW)]
    # Sockets between own threads are fine; every other family reaches outside or deep into the kernel.
    program += [step(_EQUAL, _SOCKET[machine], 0, 3), step(_LOAD, _ARGUMENT0)]
    program += [step(_EQUAL, _AF_UNIX, 1, 0), step(_RETURN, _ERRNO | errno.EACCES), step(_RETURN, _ALLOW)]
    return program
