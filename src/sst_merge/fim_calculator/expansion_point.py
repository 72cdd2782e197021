"""Where on the way from the skilled model to the plain sum the gradients are taken.

The benign Fisher is the second order of a KL divergence and says nothing where that divergence is large; the harm
Fisher says nothing where refusals are already certain (the gradients vanish) or still unthinkable. So the point is the
furthest one on the way M_U + t·M_S whose measured divergence from the skilled model stays within a trust budget: as
close to the merge that is looked for as the second order allows. The plain sum itself (t = 1) is usually far outside.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import DataError
from .capture import CoreModel
from .likelihood import divergences

__all__ = ["share_within_budget", "trust_region_share"]

_SHARES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
_SMALLEST = 0.05


def trust_region_share(
    attached: CoreModel,
    utility: Mapping[str, Tensor],
    towards_safe: Mapping[str, Tensor],
    benign: Sequence[Batch],
    *,
    budget: float,
) -> float:
    """The largest t with KL(M_U ‖ M_U + t·towards_safe) ≤ budget, by forward passes at six shares.

    Args:
        attached: the base model with hooks in place.
        utility: M_U per module, the skilled model.
        towards_safe: M_S per module, or −M_U where the base itself is the safe model.
        benign: benign prompts with good answers.
        budget: nats per answer token, > 0.

    Returns:
        T in [0.05, 1].

    Raises:
        DataError: no benign batches.
    """
    if not benign:
        raise DataError(
            "the point 'trust' goes towards the safe model as far as benign prompts allow, and there are none; give "
            "benign data, or take another point: merged, own or base"
        )
    candidates = [{m: utility[m] + t * towards_safe[m] for m in utility} for t in _SHARES]
    return share_within_budget(_SHARES, divergences(attached, candidates, utility, benign), budget)


def share_within_budget(shares: Sequence[float], measured: Sequence[float], budget: float) -> float:
    """Where a rising divergence crosses the budget, interpolated as a power law (KL grows like t² and faster).

    Args:
        shares: t, ascending.
        measured: the divergence at each t.
        budget: > 0.

    Returns:
        The crossing, between 0.05 and the largest share.
    """
    x = torch.tensor(shares, dtype=torch.float64).log()
    y = torch.tensor(measured, dtype=torch.float64).clamp_min(1e-12).log()
    target = torch.tensor(budget, dtype=torch.float64).log()
    above = (y > target).nonzero().flatten()
    if len(above) == 0:
        return shares[-1]
    right = max(1, int(above[0]))
    slope = float((y[right] - y[right - 1]) / (x[right] - x[right - 1]))
    # Below the first share only the law's exponent can be extrapolated; 2 is the least that a KL divergence has.
    crossing = x[right - 1] + (target - y[right - 1]) / max(slope, 2.0 if int(above[0]) == 0 else 1e-6)
    return float(crossing.exp().clamp(_SMALLEST, shares[-1]))
