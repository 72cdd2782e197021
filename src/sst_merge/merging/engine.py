"""One module after another: factors in, core space, method, factors out; memory holds one module.

All of it runs on one thread of torch: the bytes are the same everywhere, and the many small steps of a module gain
nothing from a second thread but are many times slower where another program takes that one's core.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core_space import CoreSpace, StackedSpace, side_by_side
from ..errors import MergeError
from ..fim_calculator import module_updates
from ..lora_utils import LoraFactors
from ..methods import Layer, named_generator
from ..progress import Progress
from ..threads import one_thread
from .delta import FormedUpdates, compress_delta, keep_freed_memory
from .module_plan import ModulePlan
from .plan import MergePlan
from .ranges import check_range
from .report import ModuleFigures

__all__ = ["MergedModule", "merged_module", "merged_modules", "module_generator"]

# Cores and thin bases cost little in float64, and their rounding would otherwise eat up float32's last digit.
_CORE_DTYPE = torch.float64


@dataclass(frozen=True)
class MergedModule:
    """What comes out for one module.

    Attributes:
        name: canonical module name.
        factors: the merged update, on the CPU.
        figures: for the report.
        drowned: adapters of which rounding leaves nothing here, beside much larger ones.
    """

    name: str
    factors: LoraFactors
    figures: ModuleFigures
    drowned: tuple[str, ...] = ()


def merged_modules(
    plan: MergePlan,
    *,
    state: Any = None,
    spaces: Mapping[str, CoreSpace] | None = None,
    progress: Progress | None = None,
) -> Iterator[MergedModule]:
    """Merge the plan's modules, one at a time, in its order.

    Args:
        plan: a checked merge; every module draws from (seed, its name), so order and parallelism do not matter.
        state: what the method prepared.
        spaces: core spaces that the preparation used; by default each module's is made here, in any basis.
        progress: called with ("merge", done, total).

    Yields:
        One merged module after another.

    Raises:
        MergeError: the method or the lift refuses a module; its name is put before the message.
    """
    for index, module in enumerate(plan.modules):
        yield merged_module(plan, module, state=state, space=spaces[module.name] if spaces is not None else None)
        if progress is not None:
            progress("merge", index + 1, len(plan.modules))


def merged_module(
    plan: MergePlan, module: ModulePlan, *, state: Any = None, space: CoreSpace | None = None
) -> MergedModule:
    """Merge one module.

    Args:
        plan: a checked merge.
        module: one of its modules.
        state: what the method prepared.
        space: core space that the preparation used; by default it is made here, in any basis.

    Returns:
        The merged module.

    Raises:
        MergeError: the method or the lift refuses it; its name is put before the message.
    """
    settings = plan.settings
    core = plan.method.domain == "core"
    if not core:
        keep_freed_memory()
    adapters = plan.merging_order
    weights, names = [a.weight for a in adapters], [a.name for a in adapters]
    added = plan.adds_factors(module)
    merge_one = _merge_core if core else _merge_delta
    dtype = _CORE_DTYPE if core and not added else settings.compute_dtype
    with one_thread():
        factors = module_updates(adapters, module.name, dtype=dtype, device=settings.device)
        generator = module_generator(settings.seed, module.name)
        try:
            drowned = check_range(factors, weights, names, dtype=_CORE_DTYPE if core else settings.compute_dtype)
            if added:
                lifted, figures = _add(plan, factors)
            else:
                lifted, figures = merge_one(plan, module, factors, generator, state, space)
        except MergeError as error:
            raise MergeError(f"module {module.name!r}: {error}") from error
        written = lifted.to(device="cpu", dtype=settings.compute_dtype)
    return MergedModule(module.name, written, figures, drowned)


def module_generator(seed: int, module: str) -> torch.Generator:
    """Random numbers of one module alone, on the CPU."""
    return named_generator(seed, module)


_Merged = tuple[LoraFactors, ModuleFigures]


def _add(plan: MergePlan, factors: Sequence[LoraFactors | None]) -> _Merged:
    coefficients = plan.coefficients
    assert coefficients is not None
    total, norm = side_by_side(factors, coefficients)
    columns = sum(f.rank for f in factors if f is not None)
    return total, ModuleFigures(total.rank, 1.0, norm, None, (columns, columns))


def _merge_core(
    plan: MergePlan,
    module: ModulePlan,
    factors: Sequence[LoraFactors | None],
    generator: torch.Generator,
    state: Any,
    space: CoreSpace | None,
) -> _Merged:
    here: CoreSpace | StackedSpace
    if space is None:
        here = StackedSpace.spanned_by(factors)
        patches = here.coordinates
    else:
        here = CoreSpace(space.left.to(_CORE_DTYPE), space.right.to(_CORE_DTYPE), space.kind, space.bias)
        patches = tuple(here.coordinates(f) for f in factors)
    merged = plan.method.merge_layer(_layer(plan, module, patches, generator), plan.options, state)
    lifted, truncation = here.lift(merged, rank=plan.settings.rank, energy=plan.settings.energy)
    return lifted, ModuleFigures.of(truncation, here.shape)


def _merge_delta(
    plan: MergePlan,
    module: ModulePlan,
    factors: Sequence[LoraFactors | None],
    generator: torch.Generator,
    state: Any,
    space: CoreSpace | None,
) -> _Merged:
    patches = FormedUpdates(factors)
    merged = plan.method.merge_layer(_layer(plan, module, patches, generator), plan.options, state)
    shape = patches.shape
    if tuple(merged.shape) != shape:
        raise MergeError(f"method {plan.method.name!r} returned shape {tuple(merged.shape)}, expected {shape}")
    patches.forget()
    lifted, truncation = compress_delta(
        merged,
        kind=module.kind,
        bias=module.bias,
        rank=plan.settings.rank,
        energy=plan.settings.energy,
        hint=patches.hint,
    )
    return lifted, ModuleFigures.of(truncation, shape)


def _layer(plan: MergePlan, module: ModulePlan, patches: Sequence[Tensor], generator: torch.Generator) -> Layer:
    return Layer(
        module=module.name,
        patches=patches,
        weights=tuple(adapter.weight for adapter in plan.merging_order),
        roles=tuple(adapter.role for adapter in plan.merging_order),
        generator=generator,
        names=tuple(adapter.name for adapter in plan.merging_order),
    )
