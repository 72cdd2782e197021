"""All figures of a set of adapters, one module after another; memory holds one module."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from ..core_space import ThinSVD, thin_svd
from ..errors import OptionError
from ..lora_utils import (
    Adapter,
    LoraFactors,
    check_compatible,
    check_distinct,
    natural_key,
    read_stored_form,
    spelled_alike,
)
from ..progress import Progress
from ..texts import counted
from .adapter_figures import AdapterFigures, UpdateFigures, update_figures
from .explain import describe_meaning
from .pair_figures import Collision, PairFigures, compare
from .signs import SignCounts, count_signs
from .sum_figures import SumFigures, SummedUpdate, sum_spectrum

__all__ = ["Inspection", "inspect_adapters"]

_FORMAT = "sst_merge.inspection/1"


@dataclass(frozen=True)
class Inspection:
    """What a merge of some adapters would meet.

    Attributes:
        adapters: one by one.
        pairs: every two of them, in the order of the list.
        weighted_sum: all of them added with their weights.
        negligible: entries below this multiple of their update's root mean square have no sign; None where signs
            were not compared.
        warnings: sentences for the user.
        meaning: the figures in plain words.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, LoraFactors, inspect_adapters
        >>> def adapter(name, row):
        ...     factors = LoraFactors(torch.eye(3)[:, row : row + 1], torch.ones(1, 4))
        ...     return Adapter.from_factors({"layer": factors}, name=name)
        >>> found = inspect_adapters([adapter("code", 0), adapter("maths", 1)])
        >>> found.cosines()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    adapters: tuple[AdapterFigures, ...]
    pairs: tuple[PairFigures, ...]
    weighted_sum: SumFigures
    negligible: float | None
    warnings: tuple[str, ...]
    meaning: tuple[str, ...]

    def cosines(self) -> list[list[float | None]]:
        """Cosines of all pairs as a square table; 1 on the diagonal, None where a pair has none."""
        names = [adapter.name for adapter in self.adapters]
        table: list[list[float | None]] = [
            [1.0 if row == column and self.adapters[row].norm > 0 else None for column in range(len(names))]
            for row in range(len(names))
        ]
        for pair in self.pairs:
            i, j = names.index(pair.first), names.index(pair.second)
            table[i][j] = table[j][i] = None if pair.total is None else pair.total.cosine
        return table

    def partial_modules(self) -> dict[str, tuple[str, ...]]:
        """Modules that only some of the adapters touch → the names of those that do."""
        modules = self.weighted_sum.modules.items()
        return {name: one.touched_by for name, one in modules if len(one.touched_by) < len(self.adapters)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        partial = {name: list(touching) for name, touching in self.partial_modules().items()}
        return {
            "format": _FORMAT,
            "shared_modules": len(self.weighted_sum.modules) - len(partial),
            "partial_modules": partial,
            "adapters": [adapter.to_dict() for adapter in self.adapters],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "weighted_sum": self.weighted_sum.to_dict(),
            "negligible": self.negligible,
            "warnings": list(self.warnings),
            "meaning": list(self.meaning),
        }


@dataclass(frozen=True)
class _Module:
    """One module, read and decomposed; every mapping is from the position in the list of adapters.

    Attributes:
        name: canonical name.
        factors: in the adapters' own types, for entries.
        exact: in float64, for everything else.
        svds: of the exact factors.
    """

    name: str
    factors: dict[int, LoraFactors]
    exact: dict[int, LoraFactors]
    svds: dict[int, ThinSVD]


def inspect_adapters(
    adapters: Sequence[Adapter],
    *,
    signs: bool = True,
    negligible: float = 0.1,
    progress: Progress | None = None,
) -> Inspection:
    """Measure adapters before a merge; no base model is needed.

    Everything but the sign conflicts is computed from the factors in float64, without forming ΔW.

    Args:
        adapters: with distinct names and the same shape in every module that they share; their weights enter the
            weighted sum.
        signs: compare signs entry by entry, which forms ΔW in blocks of rows and takes most of the time.
        negligible: an entry has a sign where |ΔW_ij| is above this multiple of its update's root mean square.
        progress: called with ("inspect", done, total).

    Returns:
        All figures.

    Raises:
        OptionError: negligible is below 0.
        MergeError: no adapters, or two of one name.
        AdapterError: NaN or Inf, or two adapters disagree on a module's shape or kind.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, LoraFactors, inspect_adapters
        >>> factors = LoraFactors(torch.ones(3, 1), torch.ones(1, 4))
        >>> code = Adapter.from_factors({"layer": factors}, name="code")
        >>> again = Adapter.from_factors({"layer": factors}, name="the same again")
        >>> (pair,) = inspect_adapters([code, again]).pairs
        >>> round(pair.total.cosine, 6)
        1.0
    """
    if not 0.0 <= negligible < float("inf"):
        raise OptionError(f"negligible = {negligible!r}, expected a number of at least 0, such as 0.1")
    check_distinct(adapters)
    adapters, renamed = spelled_alike(adapters)
    check_compatible(adapters, assume_same_base=True)
    for adapter in adapters:
        adapter.check_values()
    names = sorted({module for adapter in adapters for module in adapter.modules}, key=natural_key)
    single: list[dict[str, UpdateFigures]] = [{} for _ in adapters]
    collisions: dict[tuple[int, int], dict[str, Collision]] = {
        pair: {} for pair in combinations(range(len(adapters)), 2)
    }
    summed: dict[str, SummedUpdate] = {}
    for done, name in enumerate(names, start=1):
        module = _read(adapters, name)
        for index, svd in module.svds.items():
            single[index][name] = update_figures(adapters[index], name, svd)
        counted = _signs(module, negligible) if signs else {}
        for pair in combinations(module.svds, 2):
            first, second = (module.svds[index] for index in pair)
            collisions[pair][name] = compare(first, second, counted.get(pair))
        summed[name] = _sum(adapters, module)
        if progress is not None:
            progress("inspect", done, len(names))
    figures = tuple(_adapter(adapter, modules) for adapter, modules in zip(adapters, single, strict=True))
    pairs = tuple(_pair(figures[i], figures[j], modules) for (i, j), modules in collisions.items())
    total = SumFigures(summed, sum((f.weight * f.norm) ** 2 for f in figures) ** 0.5)
    return Inspection(
        figures,
        pairs,
        total,
        negligible if signs else None,
        (*_warnings(adapters), *renamed),
        tuple(describe_meaning(figures, pairs, total)),
    )


def _read(adapters: Sequence[Adapter], name: str) -> _Module:
    # Read twice: in float64 the scale of ΔW = s·B·A goes in without rounding, while entries are formed in the type that
    # a merge would give them, which is half the work.
    touching = {index: adapter for index, adapter in enumerate(adapters) if name in adapter}
    factors = {index: adapter.factors(name) for index, adapter in touching.items()}
    exact = {index: adapter.factors(name, dtype=torch.float64) for index, adapter in touching.items()}
    if any(update.bias for update in factors.values()):
        factors = {index: update.with_bias() for index, update in factors.items()}
        exact = {index: update.with_bias() for index, update in exact.items()}
    return _Module(name, factors, exact, {index: thin_svd(update) for index, update in exact.items()})


def _signs(module: _Module, negligible: float) -> dict[tuple[int, int], SignCounts]:
    """Counts by positions in the list of adapters."""
    positions = list(module.factors)
    norms = [float(module.svds[index].values.square().sum().sqrt()) for index in positions]
    counted = count_signs([module.factors[index] for index in positions], norms, negligible=negligible)
    return {(positions[i], positions[j]): counts for (i, j), counts in counted.items()}


def _sum(adapters: Sequence[Adapter], module: _Module) -> SummedUpdate:
    weights = {index: adapters[index].weight for index in module.exact}
    scale = max(abs(weights[i]) * float(svd.values[0]) if svd.values.numel() else 0.0 for i, svd in module.svds.items())
    updates = list(module.exact.values())
    bound = min(updates[0].d_out, updates[0].a.shape[1], sum(update.rank for update in updates))
    names = tuple(adapters[index].name for index in module.exact)
    return SummedUpdate(names, bound, sum_spectrum(updates, list(weights.values()), scale))


def _adapter(adapter: Adapter, modules: dict[str, UpdateFigures]) -> AdapterFigures:
    return AdapterFigures(
        name=adapter.name,
        role=adapter.role,
        weight=adapter.weight,
        base_model=adapter.base_model,
        task_type=adapter.task_type,
        stored=None
        if adapter.path is None
        else read_stored_form(adapter.plain_path or adapter.path, leave_out=adapter.leave_out),
        left_out=(*adapter.left_out, *(weight.key for weight in adapter.whole.values())),
        modules=modules,
    )


def _pair(first: AdapterFigures, second: AdapterFigures, modules: dict[str, Collision]) -> PairFigures:
    shares = []
    for adapter in (first, second):
        shared = sum(adapter.modules[module].norm ** 2 for module in modules)
        shares.append(shared / adapter.norm**2 if adapter.norm > 0 else 0.0)
    return PairFigures(first.name, second.name, modules, (shares[0], shares[1]))


def _warnings(adapters: Sequence[Adapter]) -> list[str]:
    found = []
    named = [adapter for adapter in adapters if adapter.base_model is not None]
    for other in named[1:]:
        if other.base_model != named[0].base_model:
            found.append(
                f"different bases: adapter {named[0].name!r} has base {named[0].base_model!r}, adapter {other.name!r} "
                f"has {other.base_model!r}; if these are not the same weights, a merge of the two means nothing"
            )
    for adapter in adapters:
        if adapter.base_model is None:
            found.append(f"adapter {adapter.name!r} names no base model, so it was not compared with the others'")
        beside = (*adapter.left_out, *(weight.key for weight in adapter.whole.values()))
        if beside:
            found.append(
                f"adapter {adapter.name!r}: {counted(len(beside), 'tensor')} beside its low-rank update "
                f"are in none of the figures, such as {beside[0]!r}"
            )
        found += [f"adapter {adapter.name!r}: {note}" for note in adapter.notes]
    return found
