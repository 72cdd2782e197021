"""Limits that the kernel keeps for one process: memory, processor time, sizes and counts."""

import resource

__all__ = ["limit_resources"]

# Processes of the jail that count: the launcher, the checker and the candidate itself.
_OWN = 3
_THREADS = 16
_OPEN_FILES = 64


def limit_resources(*, memory_bytes: int, cpu_s: int, scratch_bytes: int, processes: int) -> None:
    """Set the limits, soft and hard, so that they cannot be raised again.

    Args:
        memory_bytes: of address space.
        cpu_s: of processor time; the kernel asks first and kills one second later.
        scratch_bytes: largest file.
        processes: how many more processes there may be, besides a few threads.
    """
    limits = {
        "RLIMIT_AS": (memory_bytes, memory_bytes),
        "RLIMIT_CPU": (cpu_s, cpu_s + 1),
        "RLIMIT_FSIZE": (scratch_bytes, scratch_bytes),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NOFILE": (_OPEN_FILES, _OPEN_FILES),
        "RLIMIT_NPROC": (_OWN + _THREADS + processes, _OWN + _THREADS + processes),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_SIGPENDING": (64, 64),
        "RLIMIT_RTPRIO": (0, 0),
    }
    for name, pair in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            pair = (min(pair[0], hard), min(pair[1], hard))  # noqa: PLW2901
        resource.setrlimit(which, pair)
