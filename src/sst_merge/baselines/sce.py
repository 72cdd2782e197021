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

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.thresholds import magnitude_threshold
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import AVERAGES, SAFETY_WEIGHT, MethodSweep

__all__ = ["SceOptions", "sce"]


class SceOptions(MethodOptions):
    """Options of SCE.

    Attributes:
        strength: λ, multiplies the merged update.
        density: share of entries that is selected.
        normalize: divide by the coefficients of the agreeing updates.
    """

    strength: float = 1.0
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
    """λ · the agreeing selected entries, weighted by η.

    Args:
        layer: ΔW of every adapter, one module.
        options: λ, density, and whether to divide.
        state: unused.

    Returns:
        The merged ΔW, (d_out, d_in).
    """
    # Squares of tiny updates would underflow; η and the selection do not depend on the scale.
    scale = max(float(tau.abs().max()) for tau in weighted_updates(layer))
    zero = torch.zeros_like(layer.patches[0])
    if scale == 0.0:
        return zero
    selected = _selection(layer, options.density, scale)

    def updates() -> Iterator[Tensor]:
        for tau in weighted_updates(layer):
            yield torch.where(selected, tau, 0.0)

    energies = [float((tau / scale).double().square().sum()) for tau in updates()]
    elected = sum(updates(), start=zero).sign()
    merged, share = zero.clone(), zero.clone()
    for tau, energy in zip(updates(), energies, strict=True):
        eta = energy / sum(energies)
        agrees = (tau.sign() == elected) & (tau != 0)
        merged += eta * torch.where(agrees, tau, 0.0)
        # A number times a mask would be float32, whatever the update is.
        share.add_(agrees.to(share.dtype), alpha=eta)
    if options.normalize:
        merged = torch.where(share > 0, merged / share, 0.0)
    return options.strength * merged


def _selection(layer: Layer, density: float, scale: float) -> Tensor:
    """Mask of the entries of largest variance, (d_out, d_in)."""
    count = len(layer.patches)
    mean = torch.zeros_like(layer.patches[0])
    for tau in weighted_updates(layer):
        mean += tau / scale
    mean /= count
    variance = torch.zeros_like(mean)
    for tau in weighted_updates(layer):
        variance += (tau / scale - mean).square()
    return variance >= magnitude_threshold(variance, max(1, int(density * variance.numel())))
