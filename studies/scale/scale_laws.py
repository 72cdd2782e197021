"""What the mathematics of the code says a merge and a Fisher cost, in floating-point operations.

One multiplication with one addition counts as two operations. Lower orders are left out, but where both orders meet on
the points that are measured.
"""

import math
from collections.abc import Mapping, Sequence

__all__ = ["exact_sum", "fisher", "plain_pass", "slope", "solve", "utility_step"]

_SVD = 22.0  # times n³ of a square matrix, with both sets of vectors: LAPACK's gesdd
_EIGEN = 9.0  # times n³ of a symmetric matrix with vectors: tridiagonal form, its solution, and back


def slope(points: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of a power law through some points: the least squares line of logarithms.

    Args:
        points: x > 0, at least two.
        values: y > 0.

    Returns:
        d log y / d log x.
    """
    x, y = [math.log(point) for point in points], [math.log(value) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return across / sum((a - middle_x) ** 2 for a in x)


def exact_sum(modules: Mapping[str, tuple[int, int]], adapters: int, rank: int) -> float:
    """Of the weighted sum of all updates, as exact factors: two QR, coordinates, one SVD, and back.

    With s = n r columns on either side: 2 d s² a QR, 2 s³ for all coordinates, 22 s³ the SVD, 4 d s² the way back.
    """
    total, stacked = 0.0, adapters * rank
    for sides in modules.values():
        p, q = (min(side, stacked) for side in sides)
        for side in sides:
            low, high = min(side, stacked), max(side, stacked)
            total += 2.0 * high * low**2 - 2.0 / 3.0 * low**3
            total += 4.0 * side * min(side, stacked) * min(p, q) - 2.0 * min(side, stacked) * min(p, q) ** 2
        total += 2.0 * p * q * stacked + _SVD * max(p, q) * min(p, q) ** 2
    return total


def solve(size: int) -> float:
    """Of F_h v = λ F_b v with Kronecker factors of a core (s, s): two small eigenproblems a side, not one of s²."""
    return 2.0 * (_EIGEN + 3.0) * size**3


def utility_step(adapters: int, rank: int) -> float:
    """Of one step of conjugate gradients for M_U with a Fisher per adapter: Σ Gᵢ X Aᵢ, n times two products of s³."""
    return 4.0 * adapters * (adapters * rank) ** 3


def plain_pass(modules: Mapping[str, tuple[int, int]], vocabulary: int, *, samples: int, tokens: int) -> float:
    """Of a forward pass with all logits and a backward pass to the embedding: no gradient of a weight is taken.

    4 operations a weight and token; attention's two products of T² beside them, three times (forward, backward twice).
    """
    weights = sum(out * into for out, into in modules.values())
    hidden = next(iter(modules.values()))[1]
    layers = len(modules) // 7
    seen = samples * tokens
    return seen * (4.0 * weights + 4.0 * vocabulary * hidden + 12.0 * layers * hidden * tokens)


def fisher(modules: Mapping[str, tuple[int, int]], vocabulary: int, *, samples: int, tokens: int, core: int) -> float:
    """Of a Kronecker Fisher at a merged point: the plain pass without three quarters of its logits, and projections.

    A token and module: Vᵀx, U(M Vᵀx), Uᵀδ and V(Mᵀ Uᵀδ), 4 (d_out p + d_in q), and both Grams, 2 (p² + q²).
    """
    hidden = next(iter(modules.values()))[1]
    spared = samples * tokens * 4.0 * vocabulary * hidden * 3.0 / 4.0
    added = 0.0
    for d_out, d_in in modules.values():
        p, q = min(core, d_out), min(core, d_in)
        added += 4.0 * (d_out * p + d_in * q) + 2.0 * (p * p + q * q) + 4.0 * p * q
    return plain_pass(modules, vocabulary, samples=samples, tokens=tokens) - spared + samples * tokens * added
