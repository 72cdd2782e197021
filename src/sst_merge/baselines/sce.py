"""SCE (Wan et al., FuseChat, arXiv:2408.07990): select by variance, calculate coefficients, erase minority signs.

With τᵢ read as wᵢ τᵢ, per tensor:

    select     τ̂ᵢ = τᵢ on the density·n entries of largest variance across the adapters, 0 elsewhere
    calculate  ηᵢ = ‖τ̂ᵢ‖² / Σⱼ ‖τ̂ⱼ‖²
    erase      γ = sgn(Σᵢ τ̂ᵢ);  ΔW = λ Σ_{i: sgn τ̂ᵢ = γ} ηᵢ τ̂ᵢ / Σ_{i: sgn τ̂ᵢ = γ} ηᵢ     per entry

Default of the paper: the top 10 %. The division by the agreeing coefficients is that of the authors' implementation in
mergekit; ``normalize: false`` leaves it out. Entries that tie with the last selected one are selected, so adapters that
agree everywhere (one alone, or the same twice) come back as they are.

Others: mergekit's ``select_topk`` is 1 by default, it selects nothing where the variance is 0 everywhere, and elects +
where updates cancel, where nothing is elected here.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, Promises, StrengthOptions, merge_method
from ..methods.parts.thresholds import magnitude_threshold
from ..methods.parts.updates import by_rows, row_blocks, scaled, sum_of, weighted_rows
from ..methods.sweeps import AVERAGES, SAFETY_WEIGHT, MethodSweep

__all__ = ["sce"]


class SceOptions(StrengthOptions):
    """Options of SCE.

    Attributes:
        density: share of entries that is selected.
        normalize: divide by the coefficients of the agreeing updates.
    """

    density: float = Field(default=0.1, gt=0.0, le=1.0)
    normalize: bool = True


@merge_method(
    name="sce",
    summary="entries of largest variance, weighted by energy, minority signs erased",
    paper="arXiv:2408.07990",
    options=SceOptions,
    domain="delta",
    promises=Promises(homogeneous=True),
    sweeps=(MethodSweep("SCE", AVERAGES, knob=SAFETY_WEIGHT),),
)
def sce(layer: Layer, options: SceOptions, state: None) -> Tensor:
    """λ · the agreeing selected entries, weighted by η."""
    # Squares of tiny updates would underflow; η and the selection do not depend on the scale.
    scale = max(float(tau.abs().max()) for rows in row_blocks(layer.shape) for tau in weighted_rows(layer, rows))
    if scale == 0.0:
        return torch.zeros_like(layer.patches[0])
    variance = by_rows(layer, lambda rows: _variance(layer, rows, scale))
    least = magnitude_threshold(variance, max(1, int(options.density * variance.numel())))

    def selected(rows: slice) -> Iterator[Tensor]:
        mask = (variance[rows] >= least).to(variance.dtype)
        for tau in weighted_rows(layer, rows):
            yield tau * mask

    energies = [0.0] * len(layer.weights)
    for rows in row_blocks(layer.shape):
        for index, tau in enumerate(selected(rows)):
            energies[index] += float((tau / scale).double().square().sum())
    eta = [energy / sum(energies) for energy in energies]
    return by_rows(layer, lambda rows: scaled(_agreeing(selected, rows, eta, options), options.strength))


def _agreeing(
    selected: Callable[[slice], Iterator[Tensor]], rows: slice, eta: Sequence[float], options: SceOptions
) -> Tensor:
    """Some rows of Σ ηᵢ τ̂ᵢ over the updates that have the elected sign, divided by their Σ ηᵢ unless told otherwise."""
    elected = sum_of(selected(rows)).sign_()
    merged, share = torch.zeros_like(elected), torch.zeros_like(elected)
    for tau, weight in zip(selected(rows), eta, strict=True):
        # 1 where the signs agree, which two zeros do not.
        agrees = (tau.sign() * elected).clamp_min_(0.0)
        merged.addcmul_(tau, agrees, value=weight)
        share.add_(agrees, alpha=weight)
    # Where no update agrees both are 0, and 0 / 0 would not be.
    return merged.div_(share.clamp_min_(torch.finfo(share.dtype).tiny)) if options.normalize else merged


def _variance(layer: Layer, rows: slice, scale: float) -> Tensor:
    """Some rows of Σᵢ (τᵢ − mean)², of updates divided by a scale."""
    mean = sum_of(tau / scale for tau in weighted_rows(layer, rows)) / len(layer.weights)
    return sum_of((tau / scale - mean).square_() for tau in weighted_rows(layer, rows))
