"""A model that finds memory full, for tests of what goes on in halves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_memory(model: Any, *, above: int, forward: bool, layer: int = 0) -> Iterator[list[tuple[int, int]]]:
    """One layer finds memory full with more rows than `above`; the shapes that it saw.

    In the backward pass later layers have handed their gradients on before, in the forward pass earlier ones theirs.
    """
    seen: list[tuple[int, int]] = []

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def look(_: Any, args: Any) -> None:
        states = args[0]
        seen.append((states.shape[0], states.shape[1]))
        if states.shape[0] > above:
            if forward or not states.requires_grad:
                fail()
            states.register_hook(fail)

    handle = model.model.layers[layer].register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
