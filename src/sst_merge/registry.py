"""What a merge method is, and where methods are found.

A method is one small file: a pure function on the patches of one layer, plus a declaration of what it needs and
promises. Built-in methods live in ``sst_merge.baselines`` and ``sst_merge.sst``; third parties add theirs through
an entry point of the group ``sst_merge.methods`` whose value is a :class:`MergeMethod`.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import MergeError, OptionError, UnknownMethodError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from .core_space import CoreSpace
    from .fim_calculator import Batch
    from .lora_utils import Adapter, BaseWeights

__all__ = [
    "ENTRY_POINT_GROUP",
    "Layer",
    "MergeMethod",
    "MergeProblem",
    "MethodOptions",
    "Needs",
    "PartlyFormed",
    "Prepared",
    "Promises",
    "available_methods",
    "get_method",
    "merge_method",
    "parse_options",
]

ENTRY_POINT_GROUP = "sst_merge.methods"
_BUILTIN_ROOMS = ("sst_merge.baselines", "sst_merge.sst")

Domain = Literal["core", "delta"]


class MethodOptions(BaseModel):
    """Base class of every method's options: typed, range-checked, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Needs:
    """What a method must be given beside adapters.

    Attributes:
        data: a model and calibration batches (harm and benign).
        base: weights of the base model, read layer by layer.
        aligned_base: what alignment changed: the weights of an unaligned and of an aligned base, read layer by layer,
            or adapters of role ``safety``, which stand for that change where no pair of bases is given.
        roles: roles of which at least one adapter must be present.
    """

    data: bool = False
    base: bool = False
    aligned_base: bool = False
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Promises:
    """What the common test suite holds a method to.

    Attributes:
        exact: one utility adapter with weight 1 comes back as exactly its ΔW (methods that need roles raise).
        symmetric: the order of adapters of the same role does not matter.
        deterministic: no randomness; otherwise the seed decides, and equal seeds give equal bytes.
        homogeneous: multiplying all weights by c multiplies the result by c.
        gauge_invariant: the factorisation of ΔW (B·R, R⁻¹·A) does not matter.
    """

    exact: bool = True
    symmetric: bool = True
    deterministic: bool = True
    homogeneous: bool = False
    gauge_invariant: bool = True


class PartlyFormed(ABC):
    """Patches of which a part can be had without forming the rest; what the engine gives methods on ΔW."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Shape of every patch."""

    @abstractmethod
    def rows(self, index: int, rows: slice) -> "Tensor":
        """Some rows of one patch, (number of rows, d_in)."""

    @abstractmethod
    def entries(self, index: int, positions: "Tensor") -> "Tensor":
        """Single entries of one patch, by their positions in row-major order; up to rounding."""

    @abstractmethod
    def times(self, index: int, columns: "Tensor", *, transposed: bool = False) -> "Tensor":
        """One patch, or its transpose, times a thin matrix; up to rounding."""


@dataclass(frozen=True)
class Layer:
    """One module as a method sees it.

    Attributes:
        module: canonical name.
        patches: one matrix per adapter: its core M (p, q) or its ΔW (d_out, d_in), by the method's domain; 0
            where the adapter does not touch the module. A ΔW is formed when it is asked for and only the last one is
            kept: go through them one after the other, twice if need be, and do not change them in place.
        weights: one per adapter.
        roles: one per adapter, ``utility`` or ``safety``.
        generator: random numbers of this module alone, so that order and parallelism do not matter.
    """

    module: str
    patches: "Sequence[Tensor]"
    weights: tuple[float, ...]
    roles: tuple[str, ...]
    generator: "torch.Generator"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of every patch."""
        if isinstance(self.patches, PartlyFormed):
            return self.patches.shape
        return self.patches[0].shape[0], self.patches[0].shape[1]

    def rows(self, index: int, rows: slice) -> "Tensor":
        """Some rows of one patch; of a ΔW the rest is not formed.

        Args:
            index: of the patch.
            rows: which rows.

        Returns:
            A matrix that must not be changed in place.
        """
        if isinstance(self.patches, PartlyFormed):
            return self.patches.rows(index, rows)
        return self.patches[index][rows]

    def entries(self, index: int, positions: "Tensor") -> "Tensor":
        """Single entries of one patch, up to rounding; of a ΔW the rest is not formed.

        Args:
            index: of the patch.
            positions: in row-major order, (c,).

        Returns:
            (c,).
        """
        if isinstance(self.patches, PartlyFormed):
            return self.patches.entries(index, positions)
        return self.patches[index].flatten()[positions]

    def times(self, index: int, columns: "Tensor", *, transposed: bool = False) -> "Tensor":
        """One patch, or its transpose, times a thin matrix, up to rounding; no ΔW is formed.

        Args:
            index: of the patch.
            columns: (d_in, c), or (d_out, c).
            transposed: whose product.

        Returns:
            (d_out, c), or (d_in, c).
        """
        if isinstance(self.patches, PartlyFormed):
            return self.patches.times(index, columns, transposed=transposed)
        return (self.patches[index].T if transposed else self.patches[index]) @ columns

    def weighted_sum(self, role: str | None = None) -> "Tensor":
        """Σ wᵢ Mᵢ over the adapters of a role.

        Args:
            role: ``utility`` or ``safety``; all adapters by default.

        Returns:
            A matrix of the patches' shape, zero where no adapter has the role.
        """
        total = self.patches[0].new_zeros(self.patches[0].shape)
        for patch, weight, owner in zip(self.patches, self.weights, self.roles, strict=True):
            if role is None or owner == role:
                total += weight * patch
        return total


@dataclass(frozen=True)
class MergeProblem:
    """The whole merge, for methods that look at data before they merge layers.

    Attributes:
        adapters: what is merged, with roles and weights.
        spaces: core space of every module, in merging order.
        model: base model in evaluation mode, or None.
        harm: calibration batches (harmful prompt, refusal).
        benign: calibration batches (benign prompt, good answer).
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        seed: seed of every random choice.
        progress: called with (stage, done, total) while long work runs.
        base_weights: weights of the (unaligned) base, read one module at a time, or None.
        aligned_weights: weights of the same base after alignment, or None.
        kept: where a sweep over weights lets methods keep what does not depend on them, by a key of their own; None
            keeps nothing. Adapters, data and spaces must be the same for all merges that share one.
    """

    adapters: "Sequence[Adapter]"
    spaces: "Mapping[str, CoreSpace]"
    model: "PreTrainedModel | None" = None
    harm: "Sequence[Batch]" = ()
    benign: "Sequence[Batch]" = ()
    adapter_benign: "Mapping[str, Sequence[Batch]]" = field(default_factory=dict)
    seed: int = 0
    progress: Callable[[str, int, int], None] | None = None
    base_weights: "BaseWeights | None" = None
    aligned_weights: "BaseWeights | None" = None
    kept: dict[Hashable, Any] | None = None

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What :attr:`kept` holds under a key, made when it is first asked for; made every time where nothing is kept.

        Args:
            key: with the method's name and everything but the weights that the value depends on.
            make: the value; whoever asks must not change it.

        Returns:
            The value.
        """
        if self.kept is None:
            return make()
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


@dataclass(frozen=True)
class Prepared:
    """What :attr:`MergeMethod.prepare` hands to the layers.

    Attributes:
        state: anything the method's layer function wants; opaque to everybody else.
        report: plain figures for ``merge_report.json``.
        warnings: sentences for the user.
        spaces: core spaces to merge in, where the result leaves those of the problem; they must contain every
            adapter's update. None keeps the problem's.
    """

    state: Any = None
    report: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    spaces: "Mapping[str, CoreSpace] | None" = None


@dataclass(frozen=True)
class MergeMethod:
    """A registered method: declaration plus function.

    Attributes:
        name: as written in a configuration.
        summary: one line.
        paper: where it comes from, or "control".
        merge_layer: (layer, options, state) → merged matrix in the same domain.
        options: model of its options.
        domain: ``core`` (patches are core matrices) or ``delta`` (patches are ΔW, one layer at a time).
        needs: what it must be given.
        promises: what it is held to.
        prepare: whole-model work before the layers, or None.
        knob: the option that its strength sweep varies.
    """

    name: str
    summary: str
    paper: str
    merge_layer: "Callable[[Layer, Any, Any], Tensor]"
    options: type[MethodOptions]
    domain: Domain = "core"
    needs: Needs = Needs()
    promises: Promises = Promises()
    prepare: Callable[[MergeProblem, Any], Prepared] | None = None
    knob: str = "strength"


def merge_method(
    *,
    name: str,
    summary: str,
    paper: str,
    options: type[MethodOptions],
    domain: Domain = "core",
    needs: Needs = Needs(),
    promises: Promises = Promises(),
    prepare: Callable[[MergeProblem, Any], Prepared] | None = None,
    knob: str = "strength",
) -> "Callable[[Callable[[Layer, Any, Any], Tensor]], MergeMethod]":
    """Declare a function on one layer as a merge method; the decorated name becomes the :class:`MergeMethod`.

    Args:
        name: as written in a configuration.
        summary: one line.
        paper: where it comes from, or "control".
        options: model of its options.
        domain: whether patches are core matrices or ΔW.
        needs: what it must be given.
        promises: what the common suite holds it to.
        prepare: whole-model work before the layers.
        knob: the option that its strength sweep varies.

    Returns:
        A decorator.

    Raises:
        MergeError: the knob is not one of the options.
    """
    if knob not in options.model_fields:
        raise MergeError(f"method {name!r} declares knob {knob!r}, its options are {sorted(options.model_fields)}")

    def declare(merge_layer: "Callable[[Layer, Any, Any], Tensor]") -> MergeMethod:
        return MergeMethod(name, summary, paper, merge_layer, options, domain, needs, promises, prepare, knob)

    return declare


@cache
def available_methods() -> Mapping[str, MergeMethod]:
    """Every registered method by name, built-in and third-party, in alphabetical order.

    Returns:
        name → method.

    Raises:
        MergeError: two methods share a name, or an entry point is not a :class:`MergeMethod`.
    """
    found: dict[str, tuple[str, MergeMethod]] = {}

    def add(origin: str, method: MergeMethod) -> None:
        if method.name in found:
            raise MergeError(
                f"merge method {method.name!r} is registered twice: by {found[method.name][0]} and by {origin}; "
                "uninstall one of them or rename its method"
            )
        found[method.name] = (origin, method)

    for room in _BUILTIN_ROOMS:
        for info in pkgutil.iter_modules(import_module(room).__path__, prefix=f"{room}."):
            for method in vars(import_module(info.name)).values():
                # Re-exports of another file's method are not registrations.
                if isinstance(method, MergeMethod) and method.merge_layer.__module__ == info.name:
                    add(info.name, method)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        loaded = point.load()
        if not isinstance(loaded, MergeMethod):
            raise MergeError(
                f"entry point {point.name!r} = {point.value!r} (group {ENTRY_POINT_GROUP}) is a "
                f"{type(loaded).__name__}, expected a sst_merge.registry.MergeMethod; fix or uninstall that package"
            )
        add(f"entry point {point.value}", loaded)
    return {name: found[name][1] for name in sorted(found)}


def get_method(name: str) -> MergeMethod:
    """The method of that name.

    Args:
        name: as listed by ``sst-merge methods``.

    Returns:
        The method.

    Raises:
        UnknownMethodError: there is none.
    """
    methods = available_methods()
    if name not in methods:
        raise UnknownMethodError(f"unknown merge method {name!r}; available: {', '.join(methods)}")
    return methods[name]


def parse_options(method: MergeMethod, options: Mapping[str, Any]) -> MethodOptions:
    """Check the options of a method.

    Args:
        method: whose options they are.
        options: plain values, as read from a configuration or given as keywords.

    Returns:
        An instance of ``method.options``.

    Raises:
        OptionError: an unknown name or a value out of range; names option, value, expectation and method.
    """
    try:
        return method.options.model_validate(dict(options))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"]) or "options"
            if item["type"] == "extra_forbidden":
                offered = ", ".join(sorted(method.options.model_fields)) or "none"
                problems.append(f"unknown option {where!r} (method {method.name!r} has: {offered})")
            else:
                problems.append(f"option {where!r} = {item['input']!r} of method {method.name!r}: {item['msg']}")
        raise OptionError("; ".join(problems)) from error
