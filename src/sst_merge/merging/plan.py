"""A merge before its work: everything that can be refused was, and what the work will cost.

A plan is made from configurations and safetensors headers alone; ``--dry-run`` prints it.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from ..lora_utils import (
    Adapter,
    BaseModelIndex,
    Ranks,
    check_against_base,
    check_compatible,
    check_distinct,
    spelled_alike,
    true_copies,
    written_base,
)
from ..methods import MergeMethod, MethodOptions, Needs, get_method, parse_options
from ..progress import Progress
from ..texts import counted, duration, memory_size, visible
from ..threads import one_thread
from .cost import ModuleCost
from .inputs import MergeInputs
from .module_plan import ModulePlan, planned_modules
from .plan_checks import UNNAMED, check_bias, check_needs, check_rank, check_seen, plan_warnings
from .settings import DEFAULT_SETTINGS, MergeSettings
from .whole import CarriedWeights, carried_weights, written_task_type

__all__ = ["MergePlan", "plan_merge"]


@dataclass(frozen=True)
class MergePlan:
    """A merge that passed every check.

    Attributes:
        method: the method.
        options: its options, checked.
        needs: what the method must be given with these options.
        adapters: what is merged, with the base's module kinds where a base was given.
        modules: in merging order (natural order of their names).
        settings: how the merge is computed.
        base_model: name of the base written into the output.
        warnings: sentences for the user.
        carried: whole weights that are written along.
        provenance: where base and data come from, for the report.
        task_type: PEFT's task type of the output; one whose head is in it, or None.
    """

    method: MergeMethod
    options: MethodOptions
    needs: Needs
    adapters: tuple[Adapter, ...]
    modules: tuple[ModulePlan, ...]
    settings: MergeSettings
    base_model: str | None
    warnings: tuple[str, ...]
    carried: CarriedWeights
    task_type: str | None
    provenance: Mapping[str, object]

    @property
    def merging_order(self) -> tuple[Adapter, ...]:
        """The adapters as the method sees them.

        By name where it draws and promises that their order does not matter: sums in another order round otherwise,
        and bases of another order turn what is drawn in them.
        """
        promises = self.method.promises
        if promises.deterministic or not promises.symmetric:
            return self.adapters
        return tuple(sorted(self.adapters, key=lambda adapter: adapter.name))

    @property
    def coefficients(self) -> tuple[float, ...] | None:
        """cᵢ in merging order where the merge is Σ cᵢ ΔWᵢ, else None."""
        if self.method.coefficients is None:
            return None
        adapters = self.merging_order
        return self.method.coefficients(
            tuple(adapter.weight for adapter in adapters), tuple(adapter.role for adapter in adapters), self.options
        )

    def adds_factors(self, module: ModulePlan) -> bool:
        """Whether a module's factors are the adapters' own side by side: a sum of which nothing need be cut."""
        whole = self.settings.energy is None and sum(module.ranks) <= module.rank
        return whole and self.method.coefficients is not None

    @property
    def output_rank(self) -> int:
        """Upper bound of the output's r."""
        return max(module.rank for module in self.modules)

    @property
    def input_folders(self) -> tuple[Path, ...]:
        """Folders of adapters that are read."""
        return tuple(adapter.path for adapter in self.adapters if adapter.path is not None)

    def check_inputs(self, inputs: MergeInputs) -> None:
        """Refuse model and data that lack what the method needs."""
        check_needs(self.method.name, self.needs, self.adapters, inputs.given)

    def read_values(self, *, progress: Progress | None = None, threads: int = 1) -> tuple[str, ...]:
        """Read every value of every adapter once: the last thing that can be refused before heavy work.

        Args:
            progress: called with ("check", done, total).
            threads: adapters that are read at once.

        Returns:
            Sentences about adapters that contribute nothing, beside the plan's own warnings.

        Raises:
            AdapterError: NaN or Inf, with the tensor's name.
        """
        found = []
        # Each on one thread of torch: their steps are small.
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            zeros = pool.map(lambda a: a.check_values() if a.is_fetched else None, self.adapters)
            for done, (adapter, zero) in enumerate(zip(self.adapters, zeros, strict=True), start=1):
                if zero is None:
                    found.append(
                        f"adapter {adapter.name!r}: its weights are on the hub and were not fetched, so its values are "
                        f"not checked yet (NaN, factors of zeros)"
                    )
                    continue
                if len(zero) == len(adapter.modules) and not adapter.is_scaled_away:
                    found.append(
                        f"adapter {adapter.name!r} contributes nothing: ΔW is zero in all its modules ({len(zero)}), "
                        f"as A or B is; was it saved before training?"
                    )
                if progress is not None:
                    progress("check", done, len(self.adapters))
        return tuple(found)

    def output_bytes(self, dtype: torch.dtype, ranks: Ranks = "uniform") -> int:
        """Upper bound of the output's weight file, its whole weights not counted."""
        rank = self.output_rank if ranks == "uniform" else None
        return sum(module.parameters(rank) for module in self.modules) * dtype.itemsize

    @property
    def peak_bytes(self) -> int:
        """Working memory of the largest module, roughly; a model and Fisher statistics come on top."""
        return max(self.cost(module).bytes for module in self.modules)

    @property
    def seconds(self) -> float:
        """Seconds of one core for all modules, within a factor of about three; passes over data come on top."""
        return sum(self.cost(module).seconds for module in self.modules)

    def cost(self, module: ModulePlan) -> ModuleCost:
        """What one module costs."""
        return ModuleCost(
            d_out=module.d_out,
            d_in=module.d_in + int(module.bias),
            ranks=module.ranks,
            rank=module.rank,
            whole=self.method.domain == "delta",
            cut=self.settings.rank is not None and self.settings.energy is None,
            added=self.adds_factors(module),
            itemsize=self.settings.compute_dtype.itemsize,
        )

    def describe(self, *, dtype: torch.dtype | None = None, ranks: Ranks = "uniform") -> str:
        """The plan as text."""
        dtype = dtype or self.settings.compute_dtype
        rank, energy = self.settings.rank, self.settings.energy
        cut = "exact" if rank is None and energy is None else f"rank {rank}, energy {energy}"
        lines = [f"method   {self.method.name}: {self.method.summary} ({self.method.paper})"]
        lines += [f"option   {name} = {value}" for name, value in self.options.model_dump(mode="json").items()]
        for adapter in self.adapters:
            found = sorted({adapter.rank(module) for module in adapter.modules})
            lines.append(
                f"adapter  {adapter.name}: role {adapter.role}, weight {adapter.weight:g}, "
                f"{counted(len(adapter.modules), 'module')}, rank {'/'.join(map(str, found))}"
            )
        lines.append(f"base     {self.base_model or 'not named by any adapter'}")
        lines.append(
            f"output   {counted(len(self.modules), 'module')}, rank at most {self.output_rank} ({cut}), at most "
            f"{memory_size(self.output_bytes(dtype, ranks))} in {str(dtype).removeprefix('torch.')}"
        )
        if self.carried.tensors:
            count = counted(len(self.carried.tensors), "weight")
            lines.append(f"whole    {count} beside them: {', '.join(self.carried.tensors)}")
        lines.append(f"memory   about {memory_size(self.peak_bytes)} at once for the largest module")
        lines.append(f"time     about {duration(self.seconds)} of one core for all modules, within a factor of three")
        lines += [f"warning  {warning}" for warning in self.warnings]
        return "\n".join(map(visible, lines))


def plan_merge(
    adapters: Sequence[Adapter],
    method: str = "task_arithmetic",
    *,
    options: Mapping[str, object] = MappingProxyType({}),
    settings: MergeSettings = DEFAULT_SETTINGS,
    given: Collection[str] = (),
    base: BaseModelIndex | None = None,
    base_model: str | None = None,
    unchecked: Sequence[str] = (),
    notes: Sequence[str] = (),
    provenance: Mapping[str, object] = MappingProxyType({}),
) -> MergePlan:
    """Check a merge and lay out its work; no tensor is read but whole weights, to compare them.

    Args:
        adapters: what to merge, with distinct names.
        method: name of a registered method.
        options: its options, plain values.
        settings: how the merge is computed.
        given: which of ``model``, ``harm``, ``benign``, ``base_weights`` and ``aligned_weights`` the merge will have
            (:attr:`MergeInputs.given` where they are loaded already).
        base: layers of the base model; module names are checked against them and their kinds are taken over.
        base_model: hub id or folder of the base, to be written where the adapters name none that can be found; the
            name of ``base`` by default.
        unchecked: why there is no ``base``, as sentences for the user.
        notes: other sentences for the user, which become warnings of the plan.
        provenance: where base and data come from, as the report records it.

    Returns:
        The plan.

    Raises:
        MergeError: adapters, roles, options or rank do not fit the merge.
        DataError: the method reads data that are not given.
        AdapterError: adapters do not belong together.
        BaseModelError: an adapter does not fit the base, or the method reads the base's weights and no model is given.
    """
    chosen = get_method(method)
    parsed = parse_options(chosen, options)
    needs = chosen.needs_for(parsed)
    check_distinct(adapters)
    check_needs(chosen.name, needs, adapters, given)
    adapters, renamed = spelled_alike(adapters, () if base is None else base.adaptable)
    if base is not None:
        for adapter in adapters:
            check_against_base(adapter, base)
        adapters = [adapter.with_kinds(base.kinds) for adapter in adapters]
    check_compatible(adapters, assume_same_base=settings.assume_same_base)
    modules = planned_modules(adapters)
    check_seen(chosen.name, needs, modules)
    if settings.rank is not None:
        check_rank(settings.rank, modules)
        modules = [replace(module, rank=min(module.rank, settings.rank)) for module in modules]
    check_bias(modules)
    if base_model is None and base is not None and base.name != UNNAMED:
        base_model = base.name
    written, about_base = written_base([adapter.base_model for adapter in adapters], base_model)
    adapters = [
        adapter.without_whole(true_copies(adapter, _folders(adapter, base, base_model))) for adapter in adapters
    ]
    names = [module.name for module in modules]
    carried = carried_weights(adapters, names, chosen=settings.modules_to_save_from)
    task_type, about_type = written_task_type(adapters, carried.tensors)
    return MergePlan(
        method=chosen,
        options=parsed,
        needs=needs,
        adapters=tuple(adapters),
        modules=tuple(modules),
        settings=settings,
        base_model=written,
        warnings=(
            *unchecked,
            *plan_warnings(adapters, base, noted=bool(unchecked)),
            *about_base,
            *carried.warnings(),
            *about_type,
            *renamed,
            *notes,
        ),
        carried=carried,
        task_type=task_type,
        provenance={**provenance, **_origins(adapters)},
    )


def _origins(adapters: Sequence[Adapter]) -> dict[str, object]:
    """Where adapters of the hub come from, and what reading others as a LoRA cost; nothing where there are none."""
    found = {adapter.name: adapter.origin.to_dict() for adapter in adapters if adapter.origin is not None}
    converted = {adapter.name: adapter.converted.to_dict() for adapter in adapters if adapter.converted is not None}
    return ({"adapters": found} if found else {}) | ({"converted": converted} if converted else {})


def _folders(adapter: Adapter, base: BaseModelIndex | None, base_model: str | None) -> list[str]:
    """Where the base's weights may lie, for a comparison."""
    return [name for name in (base_model, None if base is None else base.name, adapter.base_model) if name is not None]
