"""F_h v = λ F_b v for one layer, by the structure of its two Fishers."""

import math

import torch

from ..errors import FisherError
from ..fim_calculator.structures import BlockFisher, DiagonalFisher, KroneckerFisher, LayerFisher, SampleGradients
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
    """Solve one layer's problem with the cheapest exact solver for its structure.

    Damping (ρ, relative to the mean diagonal) makes F_b positive definite. A Kronecker pair is damped factor by
    factor with √ρ, so that the directions in which both factors vanish get ρ like everywhere else
    (Martens and Grosse, arXiv:1503.05671, section 6.3).

    Args:
        f_harm: F_h of the layer.
        f_benign: F_b of the layer, same structure and shape.
        k: keep the k largest λ; all by default.
        damping: ρ of F_b.
        harm_damping: ρ of F_h.

    Returns:
        Ordered directions.

    Raises:
        FisherError: structures or shapes differ, or F_b is singular after damping.
    """
    if f_harm.shape != f_benign.shape or type(f_harm) is not type(f_benign):
        raise FisherError(
            f"F_harm ({type(f_harm).__name__} {f_harm.shape}) and F_benign ({type(f_benign).__name__} "
            f"{f_benign.shape}) must have the same structure and core shape; collect both with the same adapters"
        )
    result: GEVPResult
    if isinstance(f_harm, DiagonalFisher) and isinstance(f_benign, DiagonalFisher):
        result = _solve_diagonal(f_harm, f_benign, damping, harm_damping)
    elif isinstance(f_harm, KroneckerFisher) and isinstance(f_benign, KroneckerFisher):
        result = _solve_kronecker(f_harm, f_benign, damping, harm_damping)
    elif isinstance(f_harm, BlockFisher | SampleGradients):
        result = _solve_dense(f_harm, f_benign, damping, harm_damping, k)
    else:
        raise FisherError(f"no solver for structure {type(f_harm).__name__}; use diagonal, kronecker, block or lowrank")
    return result if k is None or k >= len(result.eigenvalues) else result.top(k)


def _solve_dense(
    f_harm: LayerFisher, f_benign: LayerFisher, damping: float, harm_damping: float, k: int | None
) -> DenseGEVP:
    harm = damped(checked_symmetric(f_harm.dense(), "F_harm"), harm_damping)
    benign = damped(checked_symmetric(f_benign.dense(), "F_benign"), damping)
    values, vectors = generalized_eigh(harm, benign, k)
    return DenseGEVP(values, f_harm.shape, vectors, benign @ vectors)


def _solve_diagonal(
    f_harm: DiagonalFisher, f_benign: DiagonalFisher, damping: float, harm_damping: float
) -> DiagonalGEVP:
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
    f_harm: KroneckerFisher, f_benign: KroneckerFisher, damping: float, harm_damping: float
) -> KroneckerGEVP:
    sides = []
    for harm, benign, side in (
        (f_harm.grad_factor, f_benign.grad_factor, "G"),
        (f_harm.input_factor, f_benign.input_factor, "A"),
    ):
        h = damped(checked_symmetric(harm, f"F_harm's factor {side}"), math.sqrt(harm_damping))
        b = damped(checked_symmetric(benign, f"F_benign's factor {side}"), math.sqrt(damping))
        values, vectors = generalized_eigh(h, b)
        sides.append((values, vectors, b @ vectors))
    (left_values, left, left_dual), (right_values, right, right_dual) = sides
    products = torch.outer(left_values, right_values).reshape(-1)
    values, order = torch.sort(products, descending=True, stable=True)
    return KroneckerGEVP(values, f_harm.shape, left, right, left_dual, right_dual, order)
