"""Task Arithmetic (Ilharco et al., arXiv:2212.04089): the weighted sum of the updates.

    ΔW = λ Σᵢ wᵢ ΔWᵢ

It is linear, so the sum of the cores is the core of the sum: exact. With ``combine: interpolate`` the safety
adapters replace the utility adapters to a share t = ``safety_strength`` instead of being added on top:
ΔW = λ ((1 − t) ΔW_U + t ΔW_S).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.sweeps import LESS, SHARES, SUMS, MethodSweep, TwoStageSweep

__all__ = ["task_arithmetic"]


class TaskArithmeticOptions(StrengthOptions):
    """Options of Task Arithmetic.

    Attributes:
        safety_strength: t, multiplies the adapters of role ``safety``.
        combine: ``add`` them on top, or ``interpolate`` between the roles.
    """

    safety_strength: float = Field(default=1.0, ge=0.0)
    combine: Literal["add", "interpolate"] = "add"


def _coefficients(
    weights: tuple[float, ...], roles: tuple[str, ...], options: TaskArithmeticOptions
) -> tuple[float, ...]:
    share = options.safety_strength
    keep = 1.0 if options.combine == "add" or "safety" not in roles else 1.0 - share
    factors = {"safety": options.strength * share, "utility": options.strength * keep}
    return tuple(factors[role] * weight for weight, role in zip(weights, roles, strict=True))


@merge_method(
    name="task_arithmetic",
    summary="weighted sum of the updates, exact",
    paper="arXiv:2212.04089",
    options=TaskArithmeticOptions,
    promises=Promises(homogeneous=True),
    knob="safety_strength",
    coefficients=_coefficients,
    sweeps=(
        MethodSweep("Task Arithmetic", SUMS),
        MethodSweep("Task Arithmetic, interpolated", SHARES, {"combine": "interpolate"}),
        MethodSweep("Task Arithmetic", LESS, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("Task Arithmetic"),
    ),
)
def task_arithmetic(layer: Layer, options: TaskArithmeticOptions, state: None) -> Tensor:
    """λ (Σ_utility w M + t Σ_safety w M), or the interpolation of the two roles."""
    return layer.combined(_coefficients(layer.weights, layer.roles, options))
