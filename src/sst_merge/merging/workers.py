"""The modules of one merge over several processes: each reads, merges and writes its own; one finishes the file.

Modules are independent and every one draws from (seed, its name), so the result has the same bytes whatever the number
of processes. They are started anew and never forked from this one, whose torch may have threads. Each reads its
modules' tensors from the files itself, and writes the merged ones to their places in the output where these are known
before; the others are sent, and at most two finished modules a process wait to be written here.
"""

import io
import multiprocessing
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal

import torch

from ..errors import MergeError
from ..executors import end_with_parent
from ..lora_utils import ExpectedFile, LoraFactors, ModuleKind
from ..machine import free_memory, usable_cores
from ..methods import MergeMethod, get_method
from ..progress import Progress
from ..texts import counted, memory_size
from .engine import MergedModule, merged_modules
from .plan import MergePlan
from .report import ModuleFigures
from .whole import CarriedWeights

__all__ = ["Workers", "merged_by_workers", "number_of_workers", "require_module_memory", "workers_and_why"]

Workers = int | Literal["auto"]
"""How many processes merge; ``auto`` takes several where the work is worth starting them."""

_AHEAD = 2  # modules a process that are merged or wait to be written
_MOST = 8
_WORTH_S = 30.0  # starting a process takes about two seconds of its core: it imports torch
_OWN_BYTES = 300 << 20  # of a process without any work


def number_of_workers(plan: MergePlan, asked: Workers) -> int:
    """How many processes a merge is given.

    Args:
        plan: a checked merge.
        asked: a number, or ``auto``: one process where the merge takes less than about half a minute, else as many as
            there are cores, eight at most, and no more than half of the free memory holds.

    Returns:
        1 where modules are not independent (the method looks at the whole merge before it merges them), and on a GPU,
        which one process fills; else the number, at most one a module.

    Raises:
        MergeError: a number below 1.
    """
    return workers_and_why(plan, asked)[0]


def workers_and_why(plan: MergePlan, asked: Workers) -> tuple[int, str | None]:
    """:func:`number_of_workers`, and why it is less than the number that was asked for.

    Args:
        plan: as there.
        asked: as there.

    Returns:
        The number, and what keeps it down; None where nothing does, and with ``auto``, which asks for no number.

    Raises:
        MergeError: a number below 1.
    """
    if asked != "auto" and asked < 1:
        raise MergeError(f"workers = {asked} does not fit: expected a number of processes, at least 1, or auto")
    limit, why = _most_workers(plan)
    if asked != "auto":
        return (asked, None) if asked <= limit else (limit, why)
    if limit == 1 or plan.seconds < _WORTH_S:
        return 1, None
    free = free_memory()
    fitting = _MOST if free is None else free // 2 // (plan.peak_bytes + _OWN_BYTES)
    return max(1, min(_MOST, usable_cores(), fitting, limit)), None


def _most_workers(plan: MergePlan) -> tuple[int, str]:
    """How many processes could have work, and why no more could."""
    if plan.method.prepare is not None:
        return 1, f"method {plan.method.name} looks at the whole merge before it merges modules"
    device = torch.device(plan.settings.device)
    if device.type != "cpu":
        return 1, f"one process fills {device}"
    count = len(plan.modules)
    return count, f"there {'is' if count == 1 else 'are'} {counted(count, 'module')}"


def require_module_memory(plan: MergePlan, workers: int, available: int) -> None:
    """Refuse modules that do not fit; what a method reads beside adapters comes on top.

    Args:
        plan: a checked merge.
        workers: processes that merge modules.
        available: bytes for all of them.

    Raises:
        MergeError: what is needed and what is there, and the setting that would fit.
    """
    alone = plan.peak_bytes + _OWN_BYTES
    needed = alone if workers == 1 else workers * alone + _OWN_BYTES
    if needed <= available:
        return
    found = f"the largest module needs about {memory_size(needed)}, and {memory_size(available)} are there"
    if alone <= available:
        raise MergeError(f"{found} for {workers} processes; one process needs {memory_size(alone)} (--workers 1)")
    other = ""
    if plan.method.domain == "delta":
        other = f"; {plan.method.name} forms ΔW, other methods do not (such as --method task_arithmetic)"
    raise MergeError(f"{found}; take a machine with more memory{other}")


def merged_by_workers(
    plan: MergePlan, workers: int, *, into: ExpectedFile | None = None, progress: Progress | None = None
) -> Iterator[MergedModule]:
    """Merge the plan's modules in several processes; as :func:`~.engine.merged_modules` in one.

    Args:
        plan: a checked merge, by a method that prepares nothing.
        workers: processes.
        into: the output, open, where they write themselves; the factors of what they wrote are on the device ``meta``.
        progress: called with ("merge", done, total).

    Yields:
        One merged module after another, in the plan's order.

    Raises:
        MergeError: the method or the lift refuses a module, the first one in order, as in one process; or a process
            was killed, or cannot be started.
    """
    names = [module.name for module in plan.modules]
    try:
        packed = _packed(plan)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise MergeError(
            f"the plan of this merge by {plan.method.name!r} cannot be sent to worker processes ({error}); merge in "
            f"one: workers=1 (--workers 1)"
        ) from error
    with _starting(workers):
        pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start, initargs=(packed, into))
    waiting: deque[Future[_Sent]] = deque()
    left = iter(range(len(names)))
    done = 0
    try:
        while done < len(names):
            for index in islice(left, _AHEAD * workers - len(waiting)):
                with _starting(workers):  # one of the first calls starts each process
                    waiting.append(pool.submit(_merge, index))
            merged = waiting.popleft().result().received()
            yield merged
            done += 1
            if progress is not None:
                progress("merge", done, len(names))
    except BrokenProcessPool as error:
        raise MergeError(
            f"a worker process ended before module {names[done]!r} was merged: it was killed, as systems do when "
            f"memory runs out, or could not start. Nothing was written; fewer processes need less memory: workers=1 "
            f"(--workers 1)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _starting(workers: int) -> Iterator[None]:
    """Say what a system without room or rights for processes refuses.

    Raises:
        MergeError: it refused.
    """
    try:
        yield
    except (OSError, ImportError, NotImplementedError) as error:
        raise MergeError(
            f"{workers} worker processes cannot be started here ({error}); merge in one: workers=1 (--workers 1)"
        ) from error


@dataclass(frozen=True)
class _Sent:
    """A merged module between two processes: a tensor would go through shared memory, of which containers have little.

    Attributes:
        name: canonical module name.
        arrays: B and A; where they are written already, their shapes.
        dtype: of both.
        kind: of the layer.
        bias: whether A has a column for a bias.
        figures: for the report.
        drowned: adapters of which rounding leaves nothing here.
    """

    name: str
    arrays: tuple[Any, Any]
    dtype: torch.dtype
    kind: ModuleKind
    bias: bool
    figures: ModuleFigures
    drowned: tuple[str, ...]

    @classmethod
    def of(cls, merged: MergedModule, *, written: bool) -> "_Sent":
        factors = merged.factors
        b, a = (tensor.shape if written else tensor.numpy() for tensor in (factors.b, factors.a))
        return cls(merged.name, (b, a), factors.b.dtype, factors.kind, factors.bias, merged.figures, merged.drowned)

    def received(self) -> MergedModule:
        b, a = (
            torch.empty(it, dtype=self.dtype, device="meta") if isinstance(it, torch.Size) else torch.from_numpy(it)
            for it in self.arrays
        )
        return MergedModule(self.name, LoraFactors(b, a, self.kind, self.bias), self.figures, self.drowned)


def _context() -> Any:
    """New processes, which share one import of torch where the system can fork it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Packer(pickle.Pickler):
    """Methods go by their names, as functions under a decorator have none of their own; so do read-only mappings."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MergeMethod):
            return get_method, (obj.name,)
        if isinstance(obj, MappingProxyType):
            return _read_only, (dict(obj),)
        return NotImplemented


def _read_only(mapping: dict[Any, Any]) -> Any:
    return MappingProxyType(mapping)


def _packed(plan: MergePlan) -> bytes:
    """A plan as bytes, without what no module needs: whole weights are written by the one that writes."""
    adapters = tuple(replace(adapter, whole=MappingProxyType({})) for adapter in plan.adapters)
    stream = io.BytesIO()
    _Packer(stream).dump(replace(plan, adapters=adapters, carried=CarriedWeights(), provenance={}, warnings=()))
    return stream.getvalue()


_given: list[tuple[MergePlan, ExpectedFile | None]] = []  # of the process that merges, one


def _start(packed: bytes, into: ExpectedFile | None) -> None:
    """In a new process: one thread, no end by the keyboard's interrupt, which the parent handles, but by its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _given.append((pickle.loads(packed), into))


def _merge(index: int) -> _Sent:
    ((plan, into),) = _given
    merged = next(merged_modules(replace(plan, modules=(plan.modules[index],))))
    return _Sent.of(merged, written=into is not None and into.write(merged.name, merged.factors))
