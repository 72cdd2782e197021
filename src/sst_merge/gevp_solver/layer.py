"""F_h v = λ F_b v for one layer, by the form of its two Fishers."""

import math
from collections.abc import Callable

import torch

from ..errors import FisherError
from ..fim_calculator.structures import Form, LayerFisher
from .dense import checked_symmetric, damped, generalized_eigh
from .result import DenseGEVP, DiagonalGEVP, GEVPResult, KroneckerGEVP

__all__ = ["solve_layer"]


def solve_layer(
    f_harm: LayerFisher,
    f_benign: LayerFisher,
    k: int | None = None,
    *,
    damping: float,
    harm_damping: float,
) -> GEVPResult:
    """Solve one layer's problem with the cheapest exact solver for its form.

    Damping (ρ, relative to the mean diagonal) makes F_b positive definite. Kronecker factors are damped factor by
    factor with √ρ, so that the directions in which both factors vanish get ρ like everywhere else
    (Martens and Grosse, arXiv:1503.05671, section 6.3).

    Args:
        f_harm: F_h of the layer.
        f_benign: F_b of the layer, same form and shape.
        k: keep the k largest λ; all by default.
        damping: ρ of F_b.
        harm_damping: ρ of F_h.

    Returns:
        Ordered directions.

    Raises:
        FisherError: forms or shapes differ, or F_b is singular after damping.
    """
    if (f_harm.shape, f_harm.form) != (f_benign.shape, f_benign.form):
        raise FisherError(
            f"F_harm ({f_harm.structure}, core {f_harm.shape}) and F_benign ({f_benign.structure}, core "
            f"{f_benign.shape}) must have the same structure and core shape; collect both with the same adapters"
        )
    result = _SOLVERS[f_harm.form](f_harm, f_benign, damping, harm_damping, k)
    return result if k is None or k >= len(result.eigenvalues) else result.top(k)


def _solve_dense(
    f_harm: LayerFisher, f_benign: LayerFisher, damping: float, harm_damping: float, k: int | None
) -> GEVPResult:
    harm = damped(checked_symmetric(f_harm.dense(), "F_harm"), harm_damping)
    benign = damped(checked_symmetric(f_benign.dense(), "F_benign"), damping)
    values, vectors = generalized_eigh(harm, benign, k)
    return DenseGEVP(values, f_harm.shape, vectors, benign @ vectors)


def _solve_diagonal(
    f_harm: LayerFisher,
    f_benign: LayerFisher,
    damping: float,
    harm_damping: float,
    k: int | None,
) -> GEVPResult:
    harm = f_harm.diagonal().double().cpu().reshape(-1)
    benign = f_benign.diagonal().double().cpu().reshape(-1)
    harm, benign = harm + harm_damping * harm.mean(), benign + damping * benign.mean()
    if not bool(torch.isfinite(harm).all() and torch.isfinite(benign).all()):
        raise FisherError("diagonal Fisher holds NaN or Inf; check the losses and the model's precision")
    if not bool((benign > 0).all()):
        raise FisherError("F_benign has zeros on its diagonal; raise the damping, or collect more benign samples")
    values, order = torch.sort(harm / benign, descending=True, stable=True)
    return DiagonalGEVP(values, f_harm.shape, order, benign[order].sqrt())


def _solve_kronecker(
    f_harm: LayerFisher,
    f_benign: LayerFisher,
    damping: float,
    harm_damping: float,
    k: int | None,
) -> GEVPResult:
    sides = []
    for harm, benign, side in zip(f_harm.factors(), f_benign.factors(), ("G", "A"), strict=True):
        h = damped(checked_symmetric(harm, f"F_harm's factor {side}"), math.sqrt(harm_damping))
        b = damped(checked_symmetric(benign, f"F_benign's factor {side}"), math.sqrt(damping))
        values, vectors = generalized_eigh(h, b)
        sides.append((values, vectors, b @ vectors))
    (left_values, left, left_dual), (right_values, right, right_dual) = sides
    products = torch.outer(left_values, right_values).reshape(-1)
    values, order = torch.sort(products, descending=True, stable=True)
    return KroneckerGEVP(values, f_harm.shape, left, right, left_dual, right_dual, order)


_SOLVERS: dict[Form, Callable[[LayerFisher, LayerFisher, float, float, int | None], GEVPResult]] = {
    "diagonal": _solve_diagonal,
    "kronecker": _solve_kronecker,
    "dense": _solve_dense,
    # Of one layer alone; the directions across layers are found by `solve_gram`.
    "low-rank": _solve_dense,
}
