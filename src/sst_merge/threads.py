"""How many threads torch computes on, where the number decides the last bits of a result."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread while the block runs, and on as many as before afterwards.

    Sums are added in another order by another number of threads, and singular vectors of close singular values turn
    with the last bits: with one thread the result is the same bytes on every number of processors.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
