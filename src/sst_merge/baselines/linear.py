"""Linear: the weighted average of the updates, exact (model soups, Wortsman et al., arXiv:2203.05482).

    ΔW = λ Σᵢ wᵢ ΔWᵢ / Σᵢ |wᵢ|

Linear in ΔW, so the core form is lossless. |wᵢ|, not wᵢ, in the divisor: an adapter that is subtracted must not make
the rest larger. With ``normalize: false`` it is Task Arithmetic.

Others: mergekit's ``linear`` divides by Σ wᵢ. PEFT's ``linear`` averages A and B apart, Σ √wᵢ B · Σ √wᵢ A, whose cross
terms BᵢAⱼ are as large as the answer; its ``svd`` is the faithful one.
"""

from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.sweeps import AVERAGES, SAFETY_WEIGHT, MethodSweep

__all__ = ["linear"]


class LinearOptions(StrengthOptions):
    """Options of the weighted average.

    Attributes:
        normalize: divide by Σ|wᵢ|.
    """

    normalize: bool = True


def _coefficients(weights: tuple[float, ...], roles: tuple[str, ...], options: LinearOptions) -> tuple[float, ...]:
    total = sum(map(abs, weights)) if options.normalize else 1.0
    return tuple(options.strength * weight / total if total > 0 else 0.0 for weight in weights)


@merge_method(
    name="linear",
    summary="weighted average of the updates, exact",
    paper="arXiv:2203.05482",
    options=LinearOptions,
    promises=Promises(),
    coefficients=_coefficients,
    sweeps=(
        MethodSweep("Weighted average", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("Weighted average × 2", AVERAGES, {"strength": 2.0}, knob=SAFETY_WEIGHT),
    ),
)
def linear(layer: Layer, options: LinearOptions, state: None) -> Tensor:
    """λ Σ wᵢ Mᵢ / Σ|wᵢ|."""
    return layer.combined(_coefficients(layer.weights, layer.roles, options))
