"""SVD: the weighted sum of the updates, cut to the output's rank or energy by an SVD of every module.

    ΔW = λ [Σᵢ wᵢ ΔWᵢ]_k,   [·]_k the best approximation of rank k (Eckart and Young)

The cut itself is the output's (``output.rank``, ``output.energy``; the argument ``rank`` or ``energy`` of ``merge``),
which every method has and which is this SVD. So this is Task Arithmetic under the name by which PEFT offers it, for
configurations that are carried over; it has no options of its own.

Others: PEFT's ``svd`` cuts to the largest rank of its inputs unless ``svd_rank`` is given; here nothing is cut unless
asked for. FusionBench and mergekit have the cut only in their LoRA extraction.
"""

from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method

__all__ = ["svd_sum"]


def _coefficients(weights: tuple[float, ...], roles: tuple[str, ...], options: StrengthOptions) -> tuple[float, ...]:
    return tuple(options.strength * weight for weight in weights)


@merge_method(
    name="svd",
    summary="weighted sum, exact, cut by SVD to the output's rank or energy",
    paper="arXiv:2212.04089",
    options=StrengthOptions,
    promises=Promises(homogeneous=True),
    coefficients=_coefficients,
)
def svd_sum(layer: Layer, options: StrengthOptions, state: None) -> Tensor:
    """λ Σ wᵢ Mᵢ; lifting it truncates."""
    return layer.combined(_coefficients(layer.weights, layer.roles, options))
