"""An update as two factors of as low a rank as it has, or as was asked for; tensors in, tensors out.

Up to a rank of :data:`EXACT_RANK` an update is kept exactly. Beyond it so many directions are kept, or as many more as
it takes to lose no more than the limit. A rank that was asked for replaces both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nearest import Nearest, nearest

__all__ = ["EXACT_RANK", "Limits", "from_kronecker", "from_matrix", "from_pair"]

EXACT_RANK = 256


@dataclass(frozen=True)
class Limits:
    """How far an update may be cut.

    Attributes:
        rank: largest rank, or None.
        most_lost: share of ‖ΔW‖²_F that may be lost where no rank is given.
        precision: float32 or float64: what the numbers were made in, and the type of the factors.
    """

    rank: int | None
    most_lost: float
    precision: torch.dtype


def from_matrix(delta: Tensor, limits: Limits) -> Nearest:
    """The nearest factors of ΔW (d_out, d_in)."""
    found = nearest(delta.to(limits.precision), rank=limits.rank, most_lost=0.0, least=EXACT_RANK)
    squares = found.a.double().square().sum(1)
    return _cut(found.b, found.a, squares, found.energy, found.lost, limits)


def from_pair(b: Tensor, a: Tensor, limits: Limits) -> Nearest:
    """B (d_out, r) · A (r, d_in) as it is where its rank may stay, else cut without forming ΔW."""
    b, a = b.double(), a.double()
    if b.shape[1] <= min(limits.rank or EXACT_RANK, b.shape[0], a.shape[1]):
        energy = max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0)
        return Nearest(b.to(limits.precision), a.to(limits.precision), energy, 0.0)
    q_out, r_out = torch.linalg.qr(b)
    q_in, r_in = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return _of_singular(q_out @ u, s, vh @ q_in.T, limits)


def from_kronecker(left: Tensor, right: Tensor, limits: Limits) -> Nearest:
    """The Kronecker product left (p, q) ⊗ right (m, n), of shape (p·m, q·n), without forming it.

    Its singular values are the products of those of the two, its singular vectors their Kronecker products.
    """
    u1, s1, v1 = torch.linalg.svd(left.double(), full_matrices=False)
    u2, s2, v2 = torch.linalg.svd(right.double(), full_matrices=False)
    s, order = (s1[:, None] * s2).flatten().sort(descending=True, stable=True)
    order = order[: _above_rounding(s.square(), limits)]
    i, j = order // s2.numel(), order % s2.numel()
    b = torch.einsum("pk,mk->pmk", u1[:, i], u2[:, j]).flatten(0, 1)
    a = torch.einsum("kq,kn->kqn", v1[i], v2[j]).flatten(1)
    return _of_singular(b, s, a, limits)


def _of_singular(u: Tensor, s: Tensor, vh: Tensor, limits: Limits) -> Nearest:
    """Factors from singular values, of which all but rounding have vectors."""
    kept = _above_rounding(s.square(), limits)
    a = vh[:kept] * s[:kept, None]
    return _cut(u[:, :kept], a, s.square()[:kept], float(s.square().sum()), 0.0, limits)


def _above_rounding(squares: Tensor, limits: Limits) -> int:
    """How many directions hold more than rounding of the numbers that the update was made of; at least 1."""
    floor = (squares.numel() * torch.finfo(limits.precision).eps) ** 2 * float(squares[0])
    return max(int((squares > floor).sum()), 1)


def _cut(b: Tensor, a: Tensor, squares: Tensor, energy: float, lost: float, limits: Limits) -> Nearest:
    """Keep the first directions of some in descending order; ``lost`` is the share that none of them holds."""
    kept = squares.numel()
    if limits.rank is not None:
        kept = min(kept, limits.rank)
    elif kept > EXACT_RANK:
        left_out = 1.0 - squares.cumsum(0) / energy
        kept = min(max(int((left_out > limits.most_lost).sum()) + 1, EXACT_RANK), kept)
    if kept < squares.numel():
        lost += float(squares[kept:].sum()) / energy
    return Nearest(b[:, :kept].to(limits.precision), a[:kept].to(limits.precision), energy, lost)
