"""Second moments of what goes into a module, E[x xᵀ] over tokens: forward passes only, a few modules at a time.

These are d_in × d_in, larger than any core, so that modules are taken in groups that fit a budget of memory; every
group costs one pass over the data.
"""

from collections import Counter
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
from ...fim_calculator import CoreModel, TokenBudget

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
    halves: bool = True,
) -> int:
    """One forward pass that shows what goes into modules, for all tokens that are not padding, prompt included.

    Where memory is full a batch is read again in halves, and no module is shown the same inputs twice.

    Args:
        model: the base model; its weights are only read.
        spaces: core spaces in which the point lies.
        batches: text.
        modules: linear modules to look at.
        add: called with a module and its inputs, (tokens, d_in), float64, with one more column for the constant input
            where the space has a bias; adds them wholly or, where memory is full, not at all.
        point: cores of the model whose activations are taken; the base itself by default.
        progress: called with the number of samples done.
        halves: False where somebody else counts the batches of this pass; full memory is an error then.

    Returns:
        Number of tokens that this process has seen; several processes share the batches.

    Raises:
        DataError: no batches.
        MergeError: a module whose inputs cannot be told apart by token.
        BaseModelError: memory does not hold a single sample.
    """
    if not batches:
        raise DataError("second moments of activations need at least one batch")
    mask = torch.zeros(0, dtype=torch.bool)
    shown = _Shown()

    def hook(module: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(_: nn.Module, args: tuple[Any, ...]) -> None:
            if shown.before(module):
                return
            rows = spaces[module].kind.rows(args[0]).flatten(0, -2)
            if len(rows) != len(mask):
                raise MergeError(
                    f"module {module!r} sees {len(rows)} inputs for {len(mask)} tokens (routed experts?); leave it out"
                )
            rows = in_float64(rows[mask.to(rows.device)])
            if spaces[module].bias:
                rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            add(module, rows)
            shown.now[module] += 1

        return look

    tokens = samples = 0
    with CoreModel(model, spaces) as attached:
        attached.set_point(point)

        def read(part: Batch) -> None:
            nonlocal mask
            mask = part.attention_mask.flatten().bool()
            shown.begin(len(part))
            with suppress(EnoughError):
                attached.answers(part)

        handles = [model.get_submodule(m).register_forward_pre_hook(hook(m)) for m in modules]
        try:
            budget = TokenBudget(halves=halves and not attached.shared_layers)
            for batch in processes.shard(batches):
                for part, _ in budget.each(batch, read, shown.forget):
                    shown.end()
                    tokens, samples = tokens + part.tokens, samples + len(part)
                    if progress is not None:
                        progress(samples)
        finally:
            for handle in handles:
                handle.remove()
    return tokens


class _Shown:
    """Which modules have been shown the inputs of samples that are read again after memory was full.

    Attributes:
        now: module → how often it has been called with the samples that are read now.
    """

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self._samples = 0
        # Samples that are still to be read again, and the calls of theirs that have been shown; the next ones are last.
        self._again: list[tuple[int, Counter[str]]] = []

    def begin(self, samples: int) -> None:
        """The next samples are read."""
        self._samples, self.now = samples, Counter()

    def before(self, module: str) -> bool:
        """Whether this call of a module was shown before memory was full; it is counted then."""
        known = bool(self._again) and self.now[module] < self._again[-1][1][module]
        self.now[module] += known
        return known

    def end(self) -> None:
        """The samples have been read to the end."""
        if self._again:
            left, calls = self._again.pop()
            if left > self._samples:
                self._again.append((left - self._samples, calls))

    def forget(self) -> bool:
        """Memory is full: the same samples come again, in parts."""
        calls = self.now | self._again[-1][1] if self._again else self.now
        self.end()
        self._again.append((self._samples, calls))
        return True


def input_moments(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    modules: Sequence[str],
    *,
    point: Mapping[str, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
    halves: bool = True,
) -> dict[str, Tensor]:
    """E[x xᵀ] over all tokens that are not padding, prompt included (:func:`each_input`).

    Args:
        model: as there.
        spaces: as there.
        batches: as there.
        modules: as there.
        point: as there.
        progress: as there.
        halves: as there.

    Returns:
        Module → (d_in, d_in), float64, on the module's device; one more row and column for the constant input where
        the space has a bias.
    """
    sums: dict[str, Tensor] = {}

    def add(module: str, rows: Tensor) -> None:
        product = rows.T @ rows
        sums[module] = sums[module] + product if module in sums else product

    tokens = each_input(model, spaces, batches, modules, add, point=point, progress=progress, halves=halves)
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
