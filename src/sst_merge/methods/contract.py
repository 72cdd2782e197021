"""What a merge method is: a pure function on the patches of one layer, with its needs, promises and sweeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import MergeError, OptionError
from ..texts import did_you_mean, shown
from .layer import Layer
from .option_help import option_names
from .problem import MergeProblem, Prepared
from .sweeps import SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MergeMethod",
    "MethodOptions",
    "Needs",
    "Promises",
    "Reads",
    "StrengthOptions",
    "merge_method",
    "option_faults",
    "parse_options",
]

Domain = Literal["core", "delta"]
Coefficients = Callable[[tuple[float, ...], tuple[str, ...], Any], tuple[float, ...]]


class MethodOptions(BaseModel):
    """Base class of every method's options: typed, range-checked, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StrengthOptions(MethodOptions):
    """Strength alone, or with what a subclass adds to it.

    Attributes:
        strength: λ, multiplies the merged update.
    """

    strength: float = 1.0


@dataclass(frozen=True)
class Needs:
    """What a method must be given beside adapters.

    Attributes:
        data: a model and calibration batches (harm and benign).
        base: weights of the base model, read layer by layer.
        aligned_base: what alignment changed: the weights of an unaligned and of an aligned base, read layer by layer,
            or adapters of role ``safety``, which stand for that change where no pair of bases is given.
        roles: roles of which at least one adapter must be present.
        why: where options decide it, why these make data needed: an end of a sentence for the user.
    """

    data: bool = False
    base: bool = False
    aligned_base: bool = False
    roles: frozenset[str] = frozenset()
    why: str = ""


@dataclass(frozen=True)
class Reads:
    """How often a method goes through its calibration data by its default options; `--dry-run` estimates time from it.

    Attributes:
        of: which sets of data: the harmful prompts, the benign ones, both (``common``), what each adapter is judged on
            (``adapters``: its own data, or harmful or common benign prompts), the same of the utility adapters alone
            (``skills``), or ``all``: the harmful prompts, and as one set all benign ones with the adapters' own.
        forward: passes over these sets without gradients.
        gradients: passes over them, forward and back.
        steps: name of the option that counts further steps, each forward and back over one batch of every set.
    """

    of: Literal["harm", "benign", "common", "adapters", "skills", "all"] = "common"
    forward: int = 0
    gradients: int = 0
    steps: str | None = None


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


@dataclass(frozen=True)
class MergeMethod:
    """A registered method: declaration plus function.

    It gets one :class:`Layer` after the other, with the patches of its ``domain``; before them, where ``prepare`` is
    given, the whole :class:`MergeProblem` with all that ``needs`` asks for. The common test suite holds it to its
    ``promises``, and ``sweeps`` enters it into the experiments.

    Attributes:
        name: as written in a configuration.
        summary: one line.
        paper: where it comes from, or "control".
        merge_layer: (layer, options, state) → merged matrix in the same domain; without ``prepare`` called for several
            layers at once, by threads.
        options: model of its options.
        domain: ``core`` (patches are core matrices) or ``delta`` (patches are ΔW, one layer at a time).
        needs: what it must be given.
        promises: what it is held to.
        prepare: whole-model work before the layers, or None.
        knob: the option that its strength sweep varies.
        sweeps: its forms, and the strengths at which experiments try them; an experiment leaves out a method without
            any.
        needs_by_options: what it must be given under certain options, where that is less than ``needs``.
        reads: how often it goes through its data.
        coefficients: of a method whose result is Σ cᵢ ΔWᵢ in every module: (weights, roles, options) → cᵢ; where
            nothing is cut, such a sum needs no decomposition.
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
    sweeps: tuple[MethodSweep | TwoStageSweep, ...] = ()
    needs_by_options: Callable[[Any], Needs] | None = None
    reads: Reads = Reads(gradients=1)
    coefficients: Coefficients | None = None

    def needs_for(self, options: MethodOptions) -> Needs:
        """What the method must be given under these options: :attr:`needs`, or less."""
        return self.needs if self.needs_by_options is None else self.needs_by_options(options)


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
    sweeps: tuple[MethodSweep | TwoStageSweep, ...] = (),
    needs_by_options: Callable[[Any], Needs] | None = None,
    reads: Reads = Reads(gradients=1),
    coefficients: Coefficients | None = None,
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
        sweeps: its forms, and the strengths at which experiments try them.
        needs_by_options: what it must be given under certain options, where that is less than ``needs``.
        reads: how often it goes through its data, where it needs any.
        coefficients: of a method whose result is Σ cᵢ ΔWᵢ: (weights, roles, options) → cᵢ.

    Returns:
        A decorator.

    Raises:
        MergeError: the knob or what counts steps is not one of the options, or a sweep has an option or a strength that
            the method refuses.

    Example:
        >>> import torch
        >>> from sst_merge import merge_method
        >>> from sst_merge.methods import Layer, MethodOptions, Promises
        >>> class HalfOptions(MethodOptions):
        ...     strength: float = 0.5
        >>> @merge_method(
        ...     name="half",
        ...     summary="half the sum",
        ...     paper="this example",
        ...     options=HalfOptions,
        ...     promises=Promises(exact=False, homogeneous=True),
        ... )
        ... def half(layer, options, state):
        ...     return options.strength * layer.weighted_sum()
        >>> patches, roles = (torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])), ("utility", "safety")
        >>> layer = Layer("q_proj", patches, (1.0, 1.0), roles, torch.Generator())
        >>> half.merge_layer(layer, half.options(), None)
        tensor([[1., 2.]])
    """
    for what, option in (("knob", knob), ("steps", reads.steps)):
        if option is not None and option not in options.model_fields:
            raise MergeError(
                f"method {name!r} declares {what} {option!r}, its options are {sorted(options.model_fields)}"
            )

    def declare(merge_layer: "Callable[[Layer, Any, Any], Tensor]") -> MergeMethod:
        method = MergeMethod(
            name,
            summary,
            paper,
            merge_layer,
            options,
            domain=domain,
            needs=needs,
            promises=promises,
            prepare=prepare,
            knob=knob,
            needs_by_options=needs_by_options,
            reads=reads,
            coefficients=coefficients,
        )
        return replace(method, sweeps=tuple(_declared(sweep, method) for sweep in sweeps))

    return declare


def _declared(sweep: MethodSweep | TwoStageSweep, method: MergeMethod) -> MethodSweep | TwoStageSweep:
    """The sweep with the method's name and knob.

    Raises:
        MergeError: an option or a strength that the method does not have: found here, not amid an experiment.
    """
    tried: list[Mapping[str, Any]] = [sweep.options]
    if isinstance(sweep, MethodSweep):
        sweep = replace(sweep, method=method.name, knob=sweep.knob or method.knob)
        if sweep.knob != SAFETY_WEIGHT:
            tried = [{**sweep.options, sweep.knob: value} for value in sweep.values]
    else:
        sweep = replace(sweep, method=method.name)
    try:
        for options in tried:
            parse_options(method, options)
    except OptionError as error:
        raise MergeError(f"sweep {sweep.label!r}: {error}") from error
    return sweep


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
        raise OptionError("; ".join(said for _, said in _faults(method, error))) from error


def option_faults(method: MergeMethod, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that is wrong with the options of a method.

    Args:
        method: whose options they are.
        options: plain values, as read from a configuration or given as keywords.

    Returns:
        (dotted name, sentence that names option, value, expectation and method); nothing where all is well.
    """
    try:
        method.options.model_validate(dict(options))
    except ValidationError as error:
        return _faults(method, error)
    return []


def _faults(method: MergeMethod, error: ValidationError) -> list[tuple[str, str]]:
    found = []
    for item in error.errors(include_url=False):
        # Of a union pydantic also names the alternative, such as literal['soft'] or the section's class.
        *inner, last = map(str, item["loc"] or ("",))
        parts = [*(part for part in inner if not part[:1].isupper()), last]
        where = ".".join(part for part in parts if part and "[" not in part)
        if item["type"] == "extra_forbidden":
            known = [name for name in option_names(method.options) if name.count(".") == where.count(".")]
            offered = ", ".join(sorted(known)) or "none"
            close = did_you_mean(where, known)
            of = f" of method {method.name!r}{close}" if close else f" (method {method.name!r} has: {offered})"
            said = f"unknown option {where!r}{of}"
        else:
            said = f"option {where or 'options'!r} = {shown(item['input'])} of method {method.name!r}: {item['msg']}"
        found.append((where, said))
    return found
