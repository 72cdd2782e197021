"""Safety efficiency of given directions: Rayleigh quotients, in-sample and held-out.

With fewer samples than parameters the in-sample λ₁ is far above what the same direction does on fresh prompts,
so every report shows both.
"""

from torch import Tensor

from ..errors import FisherError
from ..fim_calculator.structures import LayerFisher

__all__ = ["compute_safety_efficiency", "rayleigh_quotients"]


def compute_safety_efficiency(direction: Tensor, f_harm: LayerFisher | Tensor, f_benign: LayerFisher | Tensor) -> float:
    """λ(v) = vᵀF_h v / vᵀF_b v: safety gained per benign cost when moving along v.

    Args:
        direction: v as a core (p, q), or (n,) for plain arrays.
        f_harm: F_h of the layer, or an (n, n) array.
        f_benign: F_b of the layer, or an (n, n) array.

    Returns:
        The quotient, ≥ 0; infinite where only F_b vanishes along v.

    Raises:
        FisherError: both vanish along v (the quotient is undefined), or shapes do not fit.

    Example:
        >>> import torch
        >>> from sst_merge import compute_safety_efficiency
        >>> f_harm, f_benign = torch.diag(torch.tensor([6.0, 1.0])), torch.diag(torch.tensor([2.0, 1.0]))
        >>> compute_safety_efficiency(torch.tensor([1.0, 0.0]), f_harm, f_benign)
        3.0
    """
    gain, cost = _quadratic(direction, f_harm, "F_harm"), _quadratic(direction, f_benign, "F_benign")
    if gain <= 0 and cost <= 0:
        raise FisherError("neither Fisher sees this direction (vᵀFv = 0 in both): its safety efficiency is undefined")
    return gain / cost if cost > 0 else float("inf")


def rayleigh_quotients(directions: Tensor, harm_rows: Tensor, benign_rows: Tensor) -> Tensor:
    """Quotients of several directions under Fishers given by rows, F = RᵀR.

    Args:
        directions: V, (n, k).
        harm_rows: R of F_h, (N_h, n).
        benign_rows: R of F_b, (N_b, n).

    Returns:
        (k,): vᵀF_h v / vᵀF_b v; NaN where both vanish.
    """
    return (harm_rows @ directions).square().sum(0) / (benign_rows @ directions).square().sum(0)


def _quadratic(direction: Tensor, fisher: LayerFisher | Tensor, name: str) -> float:
    direction = direction.double()
    if isinstance(fisher, Tensor):
        vector = direction.reshape(-1)
        if fisher.shape != (len(vector), len(vector)):
            raise FisherError(f"{name} has shape {tuple(fisher.shape)}, the direction has {len(vector)} entries")
        return float(vector @ fisher.double() @ vector)
    core = direction.reshape(fisher.shape)
    return float((core * fisher.matvec(core)).sum())
