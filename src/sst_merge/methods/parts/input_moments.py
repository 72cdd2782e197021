"""Second moments of what goes into a module, E[x xᵀ] over tokens: forward passes only, a few modules at a time.

These are d_in × d_in, larger than any core, so that modules are taken in groups that fit a budget of memory; every
group costs one pass over the data.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ... import processes
from ...core_space import CoreSpace
from ...data_loader.batch import Batch
from ...data_loader.devices import in_float64
from ...errors import DataError, MergeError
from ...fim_calculator import CoreModel

__all__ = ["EnoughError", "add_up", "budget_groups", "each_input", "grouped_moments", "input_moments", "module_groups"]


class EnoughError(Exception):
    """Raised by a caller's own hook: what was to be seen of this batch has been seen, the rest need not be computed."""


def module_groups(spaces: Mapping[str, CoreSpace], memory_gib: float, *, copies: int = 1) -> Iterator[tuple[str, ...]]:
    """Cut the modules into groups whose second moments fit the budget; a module too large for it is a group by itself.

    Embeddings are left out: their inputs are no vectors.

    Args:
        spaces: core space per module.
        memory_gib: budget.
        copies: matrices of d_in × d_in held per module at once.

    Returns:
        Names of the modules of one group after another.
    """
    readers = {module: space for module, space in spaces.items() if space.kind.reads_vectors}
    return budget_groups({m: 8.0 * copies * space.right.shape[0] ** 2 for m, space in readers.items()}, memory_gib)


def budget_groups(sizes: Mapping[str, float], memory_gib: float) -> Iterator[tuple[str, ...]]:
    """Names in groups whose sizes, in bytes, fit the budget together; a larger one is a group by itself."""
    group: list[str] = []
    used = 0.0
    for name, size in sizes.items():
        if group and used + size / 2**30 > memory_gib:
            yield tuple(group)
            group, used = [], 0.0
        group.append(name)
        used += size / 2**30
    if group:
        yield tuple(group)


@torch.no_grad()
def each_input(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    modules: Sequence[str],
    add: Callable[[str, Tensor], None],
    *,
    point: Mapping[str, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """One forward pass that shows what goes into modules, for all tokens that are not padding, prompt included.

    Args:
        model: the base model; its weights are only read.
        spaces: core spaces in which the point lies.
        batches: text.
        modules: linear modules to look at.
        add: called with a module and its inputs, (tokens, d_in), float64, with one more column for the constant input
            where the space has a bias.
        point: cores of the model whose activations are taken; the base itself by default.
        progress: called with the number of samples done.

    Returns:
        Number of tokens that this process has seen; several processes share the batches.

    Raises:
        DataError: no batches.
        MergeError: a module whose inputs cannot be told apart by token.
    """
    if not batches:
        raise DataError("second moments of activations need at least one batch")
    mask = torch.zeros(0, dtype=torch.bool)

    def hook(module: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(_: nn.Module, args: tuple[Any, ...]) -> None:
            rows = spaces[module].kind.rows(args[0]).flatten(0, -2)
            if len(rows) != len(mask):
                raise MergeError(
                    f"module {module!r} sees {len(rows)} inputs for {len(mask)} tokens (routed experts?); leave it out"
                )
            rows = in_float64(rows[mask.to(rows.device)])
            if spaces[module].bias:
                rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            add(module, rows)

        return look

    tokens = samples = 0
    with CoreModel(model, spaces) as attached:
        attached.set_point(point)
        handles = [model.get_submodule(m).register_forward_pre_hook(hook(m)) for m in modules]
        try:
            for batch in processes.shard(batches):
                mask = batch.attention_mask.flatten().bool()
                with suppress(EnoughError):
                    attached.answers(batch)
                tokens, samples = tokens + batch.tokens, samples + len(batch)
                if progress is not None:
                    progress(samples)
        finally:
            for handle in handles:
                handle.remove()
    return tokens


def input_moments(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    modules: Sequence[str],
    *,
    point: Mapping[str, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """E[x xᵀ] over all tokens that are not padding, prompt included (:func:`each_input`).

    Args:
        model: as there.
        spaces: as there.
        batches: as there.
        modules: as there.
        point: as there.
        progress: as there.

    Returns:
        Module → (d_in, d_in), float64, on the module's device; one more row and column for the constant input where
        the space has a bias.
    """
    sums: dict[str, Tensor] = {}

    def add(module: str, rows: Tensor) -> None:
        product = rows.T @ rows
        sums[module] = sums[module] + product if module in sums else product

    tokens = each_input(model, spaces, batches, modules, add, point=point, progress=progress)
    if processes.count() > 1:
        sizes = {module: len(spaces[module].right) for module in modules}
        tokens = add_up(sums, {module: (size, size) for module, size in sizes.items()}, tokens)
    return {m: sums[m] / tokens for m in modules}


def add_up(sums: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], tokens: int) -> int:
    """Sums of all processes in place of this one's.

    Args:
        sums: module → what this process has seen; nothing where it had no batch, as with fewer batches than processes.
        shapes: of all modules' sums.
        tokens: that this process has seen.

    Returns:
        Tokens of all.
    """
    for module, shape in shapes.items():
        sums.setdefault(module, torch.zeros(*shape, dtype=torch.float64))
    processes.add_up("second moments of inputs", [sums[module] for module in shapes])
    return int(*processes.sums("tokens", [tokens]))


def grouped_moments(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    modules: Collection[str],
    memory_gib: float,
    *,
    copies: int,
    point: Mapping[str, Tensor],
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    """:func:`input_moments` of many modules, group by group (:func:`module_groups`), each to be used and let go.

    Args:
        model: as there.
        spaces: as there.
        batches: as there.
        modules: which ones, as far as their inputs are vectors.
        memory_gib: budget of a group.
        copies: matrices of d_in × d_in held per module at once.
        point: as there.
        progress: as there, anew for every group.

    Yields:
        Module and its (d_in, d_in).
    """
    for group in module_groups(spaces, memory_gib, copies=copies):
        wanted = [module for module in group if module in modules]
        moments = input_moments(model, spaces, batches, wanted, point=point, progress=progress)
        for module in wanted:
            yield module, moments.pop(module)
