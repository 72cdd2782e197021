"""Task Arithmetic (Ilharco et al., arXiv:2212.04089): the weighted sum of the updates.

    ΔW = λ Σᵢ wᵢ ΔWᵢ

It is linear, so the sum of the cores is the core of the sum: exact. With ``combine: interpolate`` the safety
adapters replace the utility adapters to a share t = ``safety_strength`` instead of being added on top:
ΔW = λ ((1 − t) ΔW_U + t ΔW_S).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.sweeps import LESS, SHARES, SUMS, MethodSweep, TwoStageSweep

__all__ = ["TaskArithmeticOptions", "task_arithmetic"]


class TaskArithmeticOptions(MethodOptions):
    """Options of Task Arithmetic.

    Attributes:
        strength: λ, multiplies the whole sum.
        safety_strength: t, multiplies the adapters of role ``safety``.
        combine: ``add`` them on top, or ``interpolate`` between the roles.
    """

    strength: float = 1.0
    safety_strength: float = Field(default=1.0, ge=0.0)
    combine: Literal["add", "interpolate"] = "add"


@merge_method(
    name="task_arithmetic",
    summary="weighted sum of the updates, exact",
    paper="arXiv:2212.04089",
    options=TaskArithmeticOptions,
    promises=Promises(homogeneous=True),
    knob="safety_strength",
    sweeps=(
        MethodSweep("Task Arithmetic", SUMS),
        MethodSweep("Task Arithmetic, interpolated", SHARES, {"combine": "interpolate"}),
        MethodSweep("Task Arithmetic", LESS, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("Task Arithmetic"),
    ),
)
def task_arithmetic(layer: Layer, options: TaskArithmeticOptions, state: None) -> Tensor:
    """λ (Σ_utility w M + t Σ_safety w M), or the interpolation of the two roles.

    Args:
        layer: core matrices of one module.
        options: λ, t and how to combine.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    share = options.safety_strength
    keep = 1.0 if options.combine == "add" or "safety" not in layer.roles else 1.0 - share
    return options.strength * (keep * layer.weighted_sum("utility") + share * layer.weighted_sum("safety"))
