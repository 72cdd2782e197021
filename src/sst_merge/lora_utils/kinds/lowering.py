"""An update as two factors of a bounded rank, and what the cut to it loses; tensors in, tensors out.

Everything is computed in float64. A rank is exact where what lies beyond it is rounding of the numbers that the update
was made of.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Lowered", "from_kronecker", "from_matrix", "from_pair"]

# Largest share of the energy that is rounding: (1.8 · eps)² or so, far below what a float32 product carries itself.
_ROUNDING = {torch.float32: 1e-13, torch.float64: 1e-26}


@dataclass(frozen=True)
class Lowered:
    """An update of one module.

    Attributes:
        b: B, (d_out, rank).
        a: A, (rank, d_in).
        energy: ‖ΔW‖²_F of the whole update.
        lost: ‖ΔW - B·A‖²_F by the cut; 0 where there was none.
        exact_rank: rank at which nothing is lost.
    """

    b: Tensor
    a: Tensor
    energy: float
    lost: float
    exact_rank: int

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.b.shape[1]

    def without_values(self) -> "Lowered":
        """The figures alone; the factors are on the meta device."""
        return replace(self, b=self.b.to("meta"), a=self.a.to("meta"))


def from_matrix(update: Tensor, *, most: int, precision: torch.dtype) -> Lowered:
    """The best approximation of ΔW of a rank (Eckart and Young 1936).

    Args:
        update: ΔW, (d_out, d_in).
        most: largest rank.
        precision: float32 or float64: what the numbers were made in.
    """
    u, s, vh = torch.linalg.svd(update.double(), full_matrices=False)
    return _cut(u, s, vh, most, precision)


def from_pair(b: Tensor, a: Tensor, *, most: int, precision: torch.dtype) -> Lowered:
    """B·A as it is where its rank is allowed, else cut without forming ΔW.

    Args:
        b: (d_out, r).
        a: (r, d_in).
        most: largest rank.
        precision: as in :func:`from_matrix`.
    """
    b, a = b.double(), a.double()
    if b.shape[1] <= min(most, b.shape[0], a.shape[1]):
        energy = float(((b.T @ b) * (a @ a.T)).sum())
        return Lowered(b, a, energy, 0.0, b.shape[1])
    q_out, r_out = torch.linalg.qr(b)
    q_in, r_in = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return _cut(q_out @ u, s, vh @ q_in.T, most, precision)


def from_kronecker(left: Tensor, right: Tensor, *, most: int, precision: torch.dtype) -> Lowered:
    """The best approximation of left ⊗ right of a rank, without forming it.

    Its singular values are the products of those of the two, its singular vectors their Kronecker products.

    Args:
        left: (p, q).
        right: (m, n); ΔW is (p·m, q·n).
        most: largest rank.
        precision: as in :func:`from_matrix`.
    """
    u1, s1, v1 = torch.linalg.svd(left.double(), full_matrices=False)
    u2, s2, v2 = torch.linalg.svd(right.double(), full_matrices=False)
    products, order = (s1[:, None] * s2).flatten().sort(descending=True, stable=True)
    kept, exact = _ranks(products, most, precision)
    i, j = order[:kept] // s2.numel(), order[:kept] % s2.numel()
    b = torch.einsum("pk,mk->pmk", u1[:, i], u2[:, j]).flatten(0, 1) * products[:kept]
    a = torch.einsum("kq,kn->kqn", v1[i], v2[j]).flatten(1)
    return Lowered(b, a, float(products.square().sum()), _lost(products, kept, exact), exact)


def _cut(u: Tensor, s: Tensor, vh: Tensor, most: int, precision: torch.dtype) -> Lowered:
    kept, exact = _ranks(s, most, precision)
    return Lowered(u[:, :kept] * s[:kept], vh[:kept], float(s.square().sum()), _lost(s, kept, exact), exact)


def _ranks(s: Tensor, most: int, precision: torch.dtype) -> tuple[int, int]:
    """The rank to keep, and the one at which nothing but rounding is lost; both at least 1."""
    energy = s.square()
    beyond = energy.flip(0).cumsum(0).flip(0)  # of singular value k and all after it
    exact = max(int((beyond > _ROUNDING[precision] * beyond[0]).sum()), 1)
    return min(exact, most), exact


def _lost(s: Tensor, kept: int, exact: int) -> float:
    return float(s[kept:].square().sum()) if kept < exact else 0.0
