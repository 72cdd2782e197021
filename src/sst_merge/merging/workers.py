"""The modules of one merge over several threads: each reads, merges and writes its own; one finishes the file.

Modules are independent and every one draws from (seed, its name), so the result has the same bytes whatever the number
of threads. They are enough: reading, algebra and writing all release Python's lock, and unlike processes threads need
no second import of torch, no copy of the plan and no way to send tensors. Each writes its merged tensors to their
places in the output where these are known before; at most two finished modules a thread wait for the one that writes
the others. On a GPU each has a stream of its own.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Literal

import torch

from ..errors import MergeError
from ..lora_utils import ExpectedFile
from ..machine import free_memory, usable_cores
from ..progress import Progress
from ..texts import counted, memory_size
from ..threads import one_thread
from .engine import MergedModule, merged_module
from .module_plan import ModulePlan
from .plan import MergePlan

__all__ = ["Workers", "merged_by_workers", "number_of_workers", "require_module_memory", "workers_and_why"]

Workers = int | Literal["auto"]
"""How many threads merge; ``auto`` takes the cores that torch may use, as far as memory holds their modules."""

_AHEAD = 2  # modules a thread that are merged or wait to be written
_MOST = 8
_OWN_BYTES = 300 << 20  # of the process without any work


def number_of_workers(plan: MergePlan, asked: Workers) -> int:
    """How many threads a merge is given.

    Args:
        plan: a checked merge.
        asked: a number, or ``auto``: as many as there are cores and torch has threads (``OMP_NUM_THREADS``,
            :func:`torch.set_num_threads`), eight at most, and no more than half of the free memory holds.

    Returns:
        1 where modules are not independent (the method looks at the whole merge before it merges them); else the
        number, at most one a module. On a GPU ``auto`` is 1, and several have a stream each.

    Raises:
        MergeError: a number below 1.
    """
    return workers_and_why(plan, asked)[0]


def workers_and_why(plan: MergePlan, asked: Workers, *, available: int | None = None) -> tuple[int, str | None]:
    """:func:`number_of_workers`, and why it is less than the number that was asked for.

    Args:
        plan: as there.
        asked: as there.
        available: bytes of another machine; this one's free memory by default.

    Returns:
        The number, and what keeps it down; None where nothing does, and with ``auto``, which asks for no number.

    Raises:
        MergeError: a number below 1.
    """
    if asked != "auto" and asked < 1:
        raise MergeError(f"workers = {asked} does not fit: expected a number of threads, at least 1, or auto")
    limit, why = _most_workers(plan)
    if asked != "auto":
        return (asked, None) if asked <= limit else (limit, why)
    if limit == 1 or torch.device(plan.settings.device).type != "cpu":
        return 1, None
    free = free_memory() if available is None else available
    fitting = _MOST if free is None else (free // 2 - _OWN_BYTES) // plan.peak_bytes
    return max(1, min(_MOST, usable_cores(), torch.get_num_threads(), fitting, limit)), None


def _most_workers(plan: MergePlan) -> tuple[int, str]:
    """How many threads could have work, and why no more could."""
    if plan.method.prepare is not None:
        return 1, f"method {plan.method.name} looks at the whole merge before it merges modules"
    count = len(plan.modules)
    return count, f"there {'is' if count == 1 else 'are'} {counted(count, 'module')}"


def require_module_memory(plan: MergePlan, workers: int, available: int) -> None:
    """Refuse modules that do not fit; what a method reads beside adapters comes on top.

    Args:
        plan: a checked merge.
        workers: threads that merge modules.
        available: bytes for all of them.

    Raises:
        MergeError: what is needed and what is there, and the setting that would fit.
    """
    alone = plan.peak_bytes + _OWN_BYTES
    needed = workers * plan.peak_bytes + _OWN_BYTES
    if needed <= available:
        return
    found = f"the largest module needs about {memory_size(needed)}, and {memory_size(available)} are there"
    if alone <= available:
        raise MergeError(f"{found} for {workers} threads; one thread needs {memory_size(alone)} (--workers 1)")
    other = ""
    if plan.method.domain == "delta":
        other = f"; {plan.method.name} forms ΔW, other methods do not (such as --method task_arithmetic)"
    raise MergeError(f"{found}; take a machine with more memory{other}")


def merged_by_workers(
    plan: MergePlan, workers: int, *, into: ExpectedFile | None = None, progress: Progress | None = None
) -> Iterator[MergedModule]:
    """Merge the plan's modules in several threads; as :func:`~.engine.merged_modules` in one.

    Args:
        plan: a checked merge, by a method that prepares nothing.
        workers: threads.
        into: the output, open, where they write themselves; the factors of what they wrote are on the device ``meta``.
        progress: called with ("merge", done, total), in the thread that asks for modules.

    Yields:
        One merged module after another, in the plan's order.

    Raises:
        MergeError: the method or the lift refuses a module, the first one in order, as in one thread.
    """

    def merge(module: ModulePlan) -> MergedModule:
        with _stream_of_its_own(torch.device(plan.settings.device)):
            merged = merged_module(plan, module)
        if into is None or not into.write(merged.name, merged.factors):
            return merged
        return replace(merged, factors=merged.factors.to(device="meta"))

    if torch.device(plan.settings.device).type == "cuda":
        torch.cuda.synchronize(plan.settings.device)  # new streams wait for nothing, and adapters may lie on the card
    count = len(plan.modules)
    left = iter(plan.modules)
    waiting: deque[Future[MergedModule]] = deque()
    # New threads compute on as many as torch was last told: on themselves alone.
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            for done in range(1, count + 1):
                waiting += [pool.submit(merge, module) for module in islice(left, _AHEAD * workers - len(waiting))]
                yield waiting.popleft().result()
                if progress is not None:
                    progress("merge", done, count)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _stream_of_its_own(device: torch.device) -> AbstractContextManager[object]:
    """Where this thread's work on a GPU does not wait for that of the others; what comes out of it is on the CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
