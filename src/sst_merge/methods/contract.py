"""What a merge method is: a pure function on the patches of one layer, and what it needs and promises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from ..errors import MergeError
from .layer import Layer
from .problem import MergeProblem, Prepared

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MergeMethod", "MethodOptions", "Needs", "Promises", "merge_method"]

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

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, LoraFactors, merge_method
        >>> from sst_merge.methods import MethodOptions
        >>> class MeanOptions(MethodOptions):
        ...     strength: float = 1.0
        >>> @merge_method(name="mean", summary="mean of all updates", paper="control", options=MeanOptions)
        ... def mean(layer, options, state):
        ...     return options.strength * sum(layer.patches) / len(layer.patches)
        >>> mean.name, mean.domain, mean.knob
        ('mean', 'core', 'strength')
    """
    if knob not in options.model_fields:
        raise MergeError(f"method {name!r} declares knob {knob!r}, its options are {sorted(options.model_fields)}")

    def declare(merge_layer: "Callable[[Layer, Any, Any], Tensor]") -> MergeMethod:
        return MergeMethod(name, summary, paper, merge_layer, options, domain, needs, promises, prepare, knob)

    return declare
