"""A model computed one transformer block at a time, for methods whose later blocks look at earlier merged ones.

The hidden states that the last finished block gave out are kept, one set a batch. A pass then goes through the model's
own forward, so that masks and positions are its own, but earlier blocks hand on what was kept instead of computing, and
the pass ends behind its block. However many blocks there are, a pass over every one of them is one pass over the model.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core_space import CoreSpace
from ...data_loader.batch import Batch
from ...errors import MergeError
from ...fim_calculator import CoreModel, replaced_forward
from .input_moments import EnoughError

__all__ = ["BlockOrder", "BlockStates", "block_name", "block_order"]


def block_name(module: str) -> str:
    """The transformer block of a module, such as ``model.layers.3``; the module itself outside of them."""
    found = re.match(r"(?:.*?\.)?\d+(?=\.)", module)
    return found.group() if found else module


@dataclass(frozen=True)
class BlockOrder:
    """Modules in the order in which a model computes them.

    Attributes:
        before: modules ahead of the first block, such as an embedding.
        blocks: name → its modules.
        after: modules behind the last block, such as the output layer.
    """

    before: tuple[str, ...]
    blocks: Mapping[str, tuple[str, ...]]
    after: tuple[str, ...]


@torch.no_grad()
def block_order(model: nn.Module, spaces: Mapping[str, CoreSpace], batch: Batch) -> BlockOrder:
    """Watch one forward pass.

    Args:
        model: the base model; its weights are only read.
        spaces: of the modules that are merged.
        batch: any text.

    Returns:
        The order.

    Raises:
        MergeError: a model that does not compute each block once, one after the other.
    """
    inside: dict[str, list[str]] = {}
    for module in spaces:
        inside.setdefault(block_name(module), []).append(module)
    called: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name in inside
    ]
    try:
        with CoreModel(model, spaces) as attached:
            attached.answers(batch)
    finally:
        for handle in handles:
            handle.remove()
    blocks = [name for name in called if name not in spaces]
    start, stop = (called.index(blocks[0]), called.index(blocks[-1])) if blocks else (len(called), len(called))
    between = [name for name in called[start:stop] if name in spaces]
    odd = [name for name in inside if called.count(name) != 1] + between
    if odd:
        raise MergeError(
            f"module {inside[odd[0]][0]!r}: a forward pass computes {odd[0]!r} {called.count(odd[0])} times"
            f"{', amid the blocks' if odd[0] in between else ''}; expected blocks that are computed once, one after "
            f"the other: leave the module out, or take a method that reads the whole model at once (regmean)"
        )
    return BlockOrder(tuple(called[:start]), {name: tuple(inside[name]) for name in blocks}, tuple(called[stop + 1 :]))


class BlockStates:
    """Hidden states behind the last finished block, for one set of batches.

    Attributes:
        bytes: of what is kept, as far as it is tensors.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        self._model = model
        self._blocks = [model.get_submodule(name) for name in blocks]
        self._kept: list[Any] = []

    @property
    def bytes(self) -> int:
        """Of what is kept now."""
        return sum(t.numel() * t.element_size() for kept in self._kept for t in _tensors(kept))

    def hidden(self, batch: int) -> Tensor:
        """What is kept of one batch, by its position: hidden states, (b, t, d)."""
        return next(_tensors(self._kept[batch]))

    @contextmanager
    def at(
        self, index: int, *, advance: bool = False, first: int = 0, look: Callable[[Tensor], None] | None = None
    ) -> Iterator[None]:
        """Let forward passes inside, one a batch and always in the same order, compute one block alone.

        Args:
            index: of the block; behind the last one for what follows the blocks.
            advance: whether what the block gives out takes the place of what was kept.
            first: position of the batch that the first pass reads.
            look: called with the hidden states that the block gives out, gradients included.

        Yields:
            Nothing.
        """
        given: list[Any] = []
        batch = first

        def hand_on(*_: Any, **__: Any) -> Any:
            return self._kept[batch]

        def end(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            nonlocal batch
            batch += 1
            if advance:
                given.append(output)
            if look is not None:
                look(next(_tensors(output)))
            raise EnoughError

        def next_batch(*_: Any) -> None:
            nonlocal batch
            batch += 1

        if index < len(self._blocks):
            handle = self._blocks[index].register_forward_hook(end)
        else:
            handle = self._model.register_forward_hook(next_batch)
        with replaced_forward(dict.fromkeys(self._blocks[:index], hand_on)):
            try:
                yield
            finally:
                handle.remove()
        if advance:
            self._kept = given


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
