"""Everything that can be refused before heavy work, and what the work will cost.

A plan is made from configurations and safetensors headers alone; ``--dry-run`` prints it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from ..errors import BaseModelError, DataError, MergeError
from ..lora_utils import (
    Adapter,
    BaseModelIndex,
    ModuleKind,
    Ranks,
    check_against_base,
    check_compatible,
    check_distinct,
    natural_key,
    spelled_alike,
    true_copies,
    written_base,
)
from ..methods import MergeMethod, MethodOptions, Needs, get_method, parse_options
from ..progress import Progress
from ..texts import counted, duration, memory_size, visible
from .cost import ModuleCost
from .inputs import MergeInputs
from .settings import DEFAULT_SETTINGS, MergeSettings
from .whole import CarriedWeights, carried_weights, written_task_type

__all__ = ["MergePlan", "ModulePlan", "plan_merge"]

_DATA_INPUTS = ("model", "harm", "benign")
_UNNAMED = "model"  # what BaseModelIndex.of calls a model that comes without a name


@dataclass(frozen=True)
class ModulePlan:
    """One module of the merge.

    Attributes:
        name: canonical module name.
        d_out: outputs.
        d_in: inputs, a bias' constant one not counted.
        kind: of the layer.
        bias: whether the update has a bias column.
        ranks: of the adapters that touch it.
        rank: upper bound of the merged update's rank.
    """

    name: str
    d_out: int
    d_in: int
    kind: ModuleKind
    bias: bool
    ranks: tuple[int, ...]
    rank: int

    def parameters(self, rank: int | None = None) -> int:
        """Numbers that the merged factors hold at most, with rows of zeros up to a rank."""
        return (rank or self.rank) * (self.d_out + self.d_in + int(self.bias))


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
    def output_rank(self) -> int:
        """Upper bound of the output's r."""
        return max(module.rank for module in self.modules)

    @property
    def input_folders(self) -> tuple[Path, ...]:
        """Folders of adapters that are read."""
        return tuple(adapter.path for adapter in self.adapters if adapter.path is not None)

    def check_inputs(self, inputs: MergeInputs) -> None:
        """Refuse model and data that lack what the method needs."""
        _check_needs(self.method.name, self.needs, self.adapters, inputs.given)

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
        with ThreadPoolExecutor(threads) as pool:
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
    _check_needs(chosen.name, needs, adapters, given)
    adapters, renamed = spelled_alike(adapters, () if base is None else base.adaptable)
    if base is not None:
        for adapter in adapters:
            check_against_base(adapter, base)
        adapters = [adapter.with_kinds(base.kinds) for adapter in adapters]
    check_compatible(adapters, assume_same_base=settings.assume_same_base)
    modules = _modules(adapters)
    _check_seen(chosen.name, needs, modules)
    if settings.rank is not None:
        _check_rank(settings.rank, modules)
        modules = [replace(module, rank=min(module.rank, settings.rank)) for module in modules]
    _check_bias(modules)
    if base_model is None and base is not None and base.name != _UNNAMED:
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
            *_warnings(adapters, base, noted=bool(unchecked)),
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


def _check_needs(method: str, needs: Needs, adapters: Sequence[Adapter], given: Collection[str]) -> None:
    roles = {adapter.role for adapter in adapters}
    missing = sorted(needs.roles - roles)
    if missing:
        raise MergeError(
            f"method {method!r} needs at least one adapter of role {missing[0]!r}; found only "
            f"{', '.join(sorted(roles))}. Set the roles of the adapters, or choose another method"
        )
    absent = [name for name in _DATA_INPUTS if name not in given]
    if needs.data and absent:
        why = f"; {needs.why}" if needs.why else ""
        raise DataError(
            f"method {method!r} reads calibration data and needs model, harm and benign; missing: {', '.join(absent)}. "
            f"Give base_model (--base), data.harm: harmful prompts with refusals, and data.benign: prompts of your "
            f"skills with good answers (model=, harm=, benign= in Python). Without prompts of your own, --calibration "
            f"builtin (data.calibration: builtin) takes a small general set that ships with this package. Or choose a "
            f"method without data, such as --method task_arithmetic{why}"
        )
    if needs.base and "model" not in given:
        raise BaseModelError(f"method {method!r} reads the base model's weights; give base_model (model=)")
    pair = {"base_weights", "aligned_weights"} & set(given)
    if needs.aligned_base and len(pair) < 2 and "safety" not in roles:
        found = f"only {pair.pop()}" if pair else "neither of them, and no adapter of role 'safety'"
        raise MergeError(
            f"method {method!r} needs to know what alignment changed; found {found}. Give base_model and "
            f"aligned_base_model as local folders (base_weights=, aligned_weights= in Python), or an adapter of role "
            f"safety in their place"
        )


def _modules(adapters: Sequence[Adapter]) -> list[ModulePlan]:
    names = sorted({module for adapter in adapters for module in adapter.modules}, key=natural_key)
    plans = []
    for name in names:
        touching = [adapter for adapter in adapters if name in adapter]
        d_out, d_in = touching[0].shape(name)
        bias = any(adapter.has_bias(name) for adapter in touching)
        ranks = tuple(adapter.rank(name) for adapter in touching)
        bound = min(d_out, d_in + int(bias), sum(ranks))
        plans.append(ModulePlan(name, d_out, d_in, touching[0].kind(name), bias, ranks, bound))
    return plans


def _check_rank(rank: int, modules: Sequence[ModulePlan]) -> None:
    largest = max(module.rank for module in modules)
    if not 1 <= rank <= largest:
        raise MergeError(
            f"rank = {rank} does not fit: these adapters' merge has at most rank {largest} in any module; give 1 to "
            f"{largest}, or leave rank out for the exact result"
        )


def _check_seen(method: str, needs: Needs, modules: Sequence[ModulePlan]) -> None:
    """A running base shows what goes into its layers, and not what each of several fused experts gets.

    Raises:
        MergeError: the method needs that.
    """
    bare = [module for module in modules if module.kind.bare]
    if not bare or not (needs.data or needs.base):
        return
    owners = {module.kind.owner(module.name) for module in bare}
    ends = sorted({re.sub(r".*\.\d+\.", "", owner) for owner in owners})
    flags = " ".join(f"--leave-out {end}" for end in ends)
    raise MergeError(
        f"method {method!r} looks at the layers of the running base, and fused experts and routers "
        f"({counted(len(bare), 'module')}, such as {bare[0].name!r}) are none: what each expert gets cannot be seen "
        f"there. Choose a method without data (task_arithmetic, ties, dare, ...), or leave them out: {flags}"
    )


def _check_bias(modules: Sequence[ModulePlan]) -> None:
    unbiased = [module for module in modules if not module.kind.can_have_bias]
    biased = [module.name for module in modules if module.bias]
    if unbiased and biased:
        found = f"module {unbiased[0].name!r} is {unbiased[0].kind.described}"
        raise MergeError(
            f"{found} and module {biased[0]!r} has a LoRA bias: PEFT "
            f"cannot hold both in one adapter, so this merge could not be saved; leave one of these modules out "
            f"(--leave-out), or the adapter with it"
        )


def _warnings(adapters: Sequence[Adapter], base: BaseModelIndex | None, *, noted: bool) -> list[str]:
    found = []
    if base is None and not noted:
        found.append("no base model was given, so module names were not checked against its layers")
    for adapter in adapters:
        named, checked = adapter.base_model, None if base is None else base.name
        # The same base may lie in several places, so only another last name is worth a word.
        if named and checked and checked != _UNNAMED and Path(named).name != Path(checked).name:
            found.append(f"adapter {adapter.name!r} names base {named!r}, it was checked against {checked!r}")
        if adapter.left_out:
            found.append(
                f"adapter {adapter.name!r}: left out, as no part of its low-rank update: "
                f"{counted(len(adapter.left_out), 'tensor')}, such as {adapter.left_out[0]!r}"
            )
        found += [f"adapter {adapter.name!r}: {note}" for note in adapter.notes]
        if adapter.is_scaled_away:
            found.append(
                f"adapter {adapter.name!r} contributes nothing: its scale is 0 in all its modules "
                f"({len(adapter.modules)}; lora_alpha in its adapter_config.json)"
            )
        if adapter.weight == 0:
            found.append(f"adapter {adapter.name!r} has weight 0")
    return found
