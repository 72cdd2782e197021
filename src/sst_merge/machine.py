"""What this machine lets a process have: cores, memory and speed, by its own limits and those of its container."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_memory", "memory_is_full", "operations_per_second", "peak_memory", "resident_memory", "usable_cores"]

_CONTAINER = Path("/sys/fs/cgroup")
_FULL = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says of a full memory, of a card or of the machine."""


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: those it is bound to, cut to the container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words(_CONTAINER / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        bound = min(bound, max(1, int(quota[0]) // int(quota[1])))
    return max(1, bound)


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say.

    What Linux calls available, or what a container's limit leaves where that is less.
    """
    found = list(_free())
    return min(found) if found else None


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that memory is full; torch has no class of its own for the machine's."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL))


def _free() -> Iterator[int]:
    available = next((line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:")), None)
    if available is not None:
        yield int(available.split()[1]) * 2**10
    for folder, limit, used, given_back in (
        (_CONTAINER, "memory.max", "memory.current", ("inactive_file", "active_file")),
        (
            _CONTAINER / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            ("total_inactive_file", "total_active_file"),
        ),
    ):
        most, now = _words(folder / limit), _words(folder / used)
        # Without a limit the older of the two interfaces names one beyond any machine.
        if most and now and most[0] != "max":
            # Files that were read count as used until somebody needs the room.
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            cached = sum(int(stat.get(name, 0)) for name in given_back)
            yield max(0, int(most[0]) - max(0, int(now[0]) - cached))
    if available is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    # The kernel's ru_maxrss starts at the size of the process that started this one; VmHWM starts anew.
    high = next((line for line in _lines(Path("/proc/self/status")) if line.startswith("VmHWM:")), None)
    if high is not None:
        return int(high.split()[1]) * 2**10
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 2**10


def operations_per_second(dtype: str, device: str, *, size: int = 1024) -> float:
    """The best of a few products of two square matrices.

    Args:
        dtype: name of a type of torch, such as ``bfloat16``.
        device: where they are multiplied.
        size: of their sides.

    Returns:
        Floating-point operations a second.
    """
    import torch

    left = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((left @ left)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def resident_memory() -> int:
    """Resident size of this process now, in bytes; its largest so far where the system does not say."""
    now = next((line for line in _lines(Path("/proc/self/status")) if line.startswith("VmRSS:")), None)
    return peak_memory() if now is None else int(now.split()[1]) * 2**10


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    lines = _lines(file)
    return lines[0].split() if lines else []
