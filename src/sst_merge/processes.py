"""One command in several processes: who reads which rows, what is added up, and that nobody waits for one that failed.

A launcher (``accelerate launch``, torchrun) starts the same command N times. Inside :func:`joined` all of them take the
same steps; passes over data take turns in the rows (:func:`shard`) and add up what they found (:func:`add_up`), and
what must not be done twice is done by the first (:func:`once`). Outside of it, and with one process, everything here
returns at once and torch is not imported.

Wherever processes meet, each first says what it is about to do, or which error ended it. So an error of one is raised
in all, and processes that do different work find out. Statistics are small and lie on the CPU: they travel by gloo,
whatever device the model computes on.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ProcessError, SSTMergeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "add_up",
    "alone",
    "count",
    "from_all",
    "is_first",
    "joined",
    "launched",
    "meet",
    "mine",
    "name",
    "once",
    "shard",
    "speaks",
    "sums",
]

Item = TypeVar("Item")

_PATIENCE = timedelta(hours=12)
"""How long one may work while the others wait; one that died is noticed at once, its connection is closed."""

_CUTTING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""Set to true by `accelerate launch` where a model is to lie in parts."""

_BUCKET = 1 << 23
"""Numbers that travel together, 64 MiB."""


@dataclass(frozen=True)
class _Joined:
    rank: int
    count: int
    group: Any


_joined: _Joined | None = None
_alone = False


def launched() -> int:
    """How many processes the launcher started, by its environment; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "").isdigit() else 1


def speaks() -> bool:
    """Whether this process is the one of a launcher's that speaks; known before they are joined."""
    return launched() == 1 or os.environ["RANK"] == "0"


def count() -> int:
    """How many processes share the work; 1 outside of :func:`joined`."""
    return 1 if _joined is None or _alone else _joined.count


def is_first() -> bool:
    """Whether this process writes files and speaks; the only one always does."""
    return _joined is None or _joined.rank == 0


def name() -> str:
    """This process in messages and names of files, such as ``2of4``; empty for one alone."""
    return "" if _joined is None else f"{_joined.rank + 1}of{_joined.count}"


def mine(index: int) -> bool:
    """Whether this process does the piece of work of that number; piece after piece goes to one after another."""
    return count() == 1 or (_joined is not None and index % _joined.count == _joined.rank)


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """The items of a list that this process works on; all of them for one process."""
    return items if count() == 1 else [item for index, item in enumerate(items) if mine(index)]


@contextmanager
def joined() -> Iterator[None]:
    """Share work with the other processes of a launcher while the block runs, which must take the same steps.

    An error that leaves the block is told to the others, which raise :class:`~sst_merge.errors.ProcessError`.

    Yields:
        Nothing.

    Raises:
        ProcessError: another process failed, ended, or did other work; or the launcher is set up to cut the model.
    """
    global _joined  # noqa: PLW0603  (a process belongs to one group, and its parts need not hand it on)
    if launched() == 1 or _joined is not None:
        yield
        return
    wanted = [name for name in _CUTTING if os.environ.get(name, "false").lower() == "true"]
    if wanted:
        raise ProcessError(
            f"accelerate's configuration asks for a model cut over processes ({wanted[0]}); expected plain processes: "
            f"accelerate launch --multi_gpu --num_processes {launched()}"
        )
    import torch
    from accelerate import PartialState

    own = not torch.distributed.is_initialized()
    if own or PartialState().num_processes == 1:
        PartialState._reset_state()  # of one process, where a library has asked before
    # Chooses this process's device, too.
    state = PartialState(cpu=not torch.cuda.is_available())
    group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    _joined = _Joined(state.process_index, state.num_processes, group)
    try:
        yield
        _meet("the end")
    except ProcessError:
        raise
    except Exception as error:
        # Where the others are gone, there is nobody to tell.
        with suppress(ProcessError):
            _meet("an error", str(error) if isinstance(error, SSTMergeError) else f"{type(error).__name__}: {error}")
        raise
    finally:
        _joined = None
        torch.distributed.destroy_process_group(None if own else group)
        if own:
            PartialState._reset_state()


@contextmanager
def alone() -> Iterator[None]:
    """Work as one process while the block runs: nothing is split, nobody is waited for.

    Yields:
        Nothing.
    """
    global _alone  # noqa: PLW0603
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def meet(what: str) -> None:
    """Wait until all processes are here, and hear of errors.

    Args:
        what: comes next; the same words in every process.
    """
    if count() > 1:
        _meet(what)


def add_up(what: str, tensors: Sequence["Tensor"]) -> None:
    """Replace tensors by their sums over all processes, taken in float64.

    Args:
        what: is added; the same words in every process.
        tensors: changed in place; as many and of the same shapes in every process.
    """
    if count() == 1:
        return
    import torch

    group = _meet(f"{what}, {sum(tensor.numel() for tensor in tensors)} numbers")
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().reshape(-1).to("cpu", torch.float64) for tensor in bucket])
        with _said_if_gone(what):
            torch.distributed.all_reduce(flat, group=group)
        for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def sums(what: str, values: Sequence[float]) -> list[float]:
    """Numbers, each added up over all processes; as they are for one process.

    Args:
        what: is added; the same words in every process.
        values: as many in every process.

    Returns:
        The sums.
    """
    if count() == 1:
        return list(values)
    import torch

    total = torch.tensor(values, dtype=torch.float64)
    add_up(what, [total])
    found: list[float] = total.tolist()
    return found


def from_all(what: str, value: Item) -> list[Item]:
    """One value of every process, in their order; tensors in it must be on the CPU.

    Args:
        what: it is; the same words in every process.
        value: of this process.

    Returns:
        The values, the same list in every process.
    """
    if count() == 1:
        return [value]
    import torch

    group = _meet(what)
    found: list[Any] = [None] * count()
    with _said_if_gone(what):
        torch.distributed.all_gather_object(found, value, group=group)
    return found


def once(what: str, make: Callable[[], Item]) -> Item:
    """What the first process makes, alone, while the others wait; all get the same bits.

    Args:
        what: is made; the same words in every process.
        make: called in the first process alone; inside it nothing is shared.

    Returns:
        The value; tensors that were on a GPU are on the GPU of this process.
    """
    if count() == 1:
        return make()
    import torch

    found: list[Any] = [None]
    if is_first():
        with alone():
            value = make()
        packed = io.BytesIO()
        torch.save(value, packed)
        found = [packed.getvalue()]
    group = _meet(what)
    with _said_if_gone(what):
        torch.distributed.broadcast_object_list(found, src=0, group=group)
    if is_first():
        return value
    # From the first process of this run, not from a file.
    received: Item = torch.load(io.BytesIO(found[0]), map_location=_own_device, weights_only=False)
    return received


def _own_device(storage: Any, place: str) -> Any:
    return storage if place == "cpu" else storage.cuda()


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def _meet(what: str, failed: str | None = None) -> Any:
    """Wait for all, and hear what each is about to do.

    Returns:
        The group.

    Raises:
        ProcessError: one failed, is gone, or does something else.
    """
    import torch

    assert _joined is not None
    words: list[Any] = [None] * _joined.count
    with _said_if_gone(what):
        torch.distributed.all_gather_object(words, (what, failed), group=_joined.group)
    if failed is not None:
        return _joined.group
    for rank, (_, error) in enumerate(words):
        if error is not None:
            raise ProcessError(f"process {rank + 1} of {_joined.count}: {error}")
    if len({plan for plan, _ in words}) > 1:
        found = "; ".join(f"process {rank + 1}: {plan}" for rank, (plan, _) in enumerate(words))
        raise ProcessError(
            f"the {_joined.count} processes of this run do different work ({found}); expected the same step in all. "
            "Start the same command with the same files everywhere"
        )
    return _joined.group


@contextmanager
def _said_if_gone(what: str) -> Iterator[None]:
    """A closed connection in words.

    Yields:
        Nothing.

    Raises:
        ProcessError: a process ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"another process of this run ended while this one waited for it ({what}). Look for its own message above "
            "(killed, out of memory?) and start the same command again: what was kept on disk is not computed again"
        ) from error
