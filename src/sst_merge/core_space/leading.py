"""Singular triplets of a dense matrix: the leading ones by block Lanczos, or all of them by the faster exact way."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["all_triplets", "leading_triplets"]

_OVERSAMPLING = 8
# A gain of the captured energy below this share of it ends the iteration (see leading_triplets).
_TOLERANCE = 1e-3
_SAFETY = 1.5
# Beyond these shares of the smaller side the exact decomposition costs no more.
_LARGEST_BLOCK = 1 / 12
_LARGEST_BASIS = 1 / 2
_SMALLEST_SIDE = 128


def leading_triplets(
    matrix: Tensor, rank: int, *, norm: float, hint: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The leading singular triplets by block Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation.

    From a random block of rank + oversampling columns (fixed seed, so that equal matrices give equal bytes) the
    iteration builds orthonormal P and Q with Qᵀ M = T Pᵀ, T small and block bidiagonal; every step costs two
    products of M with a thin block. The SVD of T gives the best approximation of that rank inside the space Q: the
    block Krylov method of Musco and Musco (arXiv:1504.05477), whose energy converges on flat spectra as well.

    The captured energy E = Σ S² is exact, because U S Vᵀ = U Uᵀ M and so ‖M‖² = E + ‖M − U S Vᵀ‖². It grows from step
    to step; when the expected rest of its growth, a geometric series, is below 1e-3 of E, the iteration ends. A matrix
    whose rank is at most the one asked for comes back to rounding.

    Args:
        matrix: M, (m, n), finite.
        rank: number of triplets.
        norm: ‖M‖_F, which the caller knows.
        hint: maps a random (m, c) to (n, c) columns near M's leading right singular vectors, such as Nᵀ of a matrix N
            that M was made from; saves a step or two and decides nothing: a tenth of the start stays random.

    Returns:
        U (m, rank), S (rank,) descending in float64, Vᵀ (rank, n); or None where the rank is too large for this to pay,
        the matrix is small, or the iteration has not converged while it was cheaper than the exact way.
    """
    side = min(matrix.shape)
    block = rank + max(_OVERSAMPLING, rank // 8)
    if side < _SMALLEST_SIDE or block > side * _LARGEST_BLOCK or norm == 0.0:
        return None
    noise = 8 * torch.finfo(matrix.dtype).eps * norm
    right = _start(matrix, block, hint)
    left = matrix.new_empty(matrix.shape[0], 0)
    small = torch.zeros(0, block, dtype=torch.float64)
    captured: list[float] = []
    while left.shape[1] + block <= side * _LARGEST_BASIS:
        newest, at = right[:, -block:], left.shape[1]
        image = matrix @ newest
        if at:
            image -= left[:, -block:] @ small[-block:, -block:].to(matrix)
        q, diagonal = _orthonormal(image, left, noise)
        left = torch.cat([left, q], dim=1)
        # Row-major times thin: written this way round it is up to twice as fast as matrix.T @ q.
        image = (q.T @ matrix).T - newest @ diagonal.T
        p, beside = _orthonormal(image, right, noise)
        right = torch.cat([right, p], dim=1)
        # T grows by one block row (A Bᵀ at its end), its columns by one block.
        small = torch.nn.functional.pad(small, (0, block, 0, block))
        small[at:, at : at + block], small[at:, at + block :] = diagonal, beside.T
        captured += [_energy(small[:, : at + block], rank), _energy(small, rank)]
        # Nothing of M lies outside the space, or the growth has come to its end.
        if float(beside.abs().max()) <= noise or _converged(captured):
            inner_left, values, inner_right = torch.linalg.svd(small, full_matrices=False)
            found_left = left @ inner_left[:, :rank].to(left)
            return found_left, values[:rank], inner_right[:rank].to(right) @ right.T
    return None


def all_triplets(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD with all min(m, n) triplets.

    float32 goes through the eigenvectors of the smaller Gram matrix in float64, two to three times as fast as LAPACK's
    divide and conquer in float32 and no less accurate: squaring costs half of float64's digits, which leaves as many as
    float32 has, so singular values are right to about 1e-8 of the largest one and those above float32's own rounding
    (max(m, n)·1.2e-7 of the largest one) have accurate vectors on both sides. float64 has no such reserve: a plain SVD.

    Args:
        matrix: (m, n), finite.

    Returns:
        U (m, k), S (k,) descending in float64, Vᵀ (k, n), k = min(m, n). Of a float32 matrix vectors of singular
        values below rounding are not orthogonal to the others.
    """
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values, right
    if matrix.shape[0] > matrix.shape[1]:
        right_t, values, left_t = all_triplets(matrix.T)
        return left_t.T, values, right_t.T
    wide = matrix.double()
    _, vectors = torch.linalg.eigh(wide @ wide.T)
    vectors = vectors.flip(1)
    images = vectors.T @ wide
    values = torch.linalg.vector_norm(images, dim=1)
    images /= values.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    values, order = values.sort(descending=True)
    return vectors[:, order].to(matrix), values, images[order].to(matrix)


def _orthonormal(block: Tensor, basis: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Q, R with block = basis·(…) + Q R, Q orthonormal and orthogonal to the basis."""
    for _ in range(2):
        block = block - basis @ (basis.T @ block)
    q, r = torch.linalg.qr(block)
    if float(r.diagonal().abs().min()) <= noise:
        # Columns of rounding noise were scaled up, and with them what they have in common with the basis.
        for _ in range(2):
            q, again = torch.linalg.qr(q - basis @ (basis.T @ q))
            r = again @ r
    return q, r


def _start(matrix: Tensor, block: int, hint: Callable[[Tensor], Tensor] | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, block, generator=generator, dtype=torch.float64).to(matrix)

    start = normal(matrix.shape[1])
    if hint is not None:
        hinted = hint(normal(matrix.shape[0]))
        start = 0.1 * start / start.norm() + hinted / hinted.norm().clamp_min(torch.finfo(hinted.dtype).tiny)
    return torch.linalg.qr(start).Q


def _energy(small: Tensor, rank: int) -> float:
    """Σ of the largest squared singular values."""
    return float(torch.linalg.eigvalsh(small @ small.T)[-rank:].sum())


def _converged(captured: list[float]) -> bool:
    """Whether what the next steps would add, as a geometric series, is below the tolerance."""
    if len(captured) < 4:
        return False
    before, last = captured[-2] - captured[-3], captured[-1] - captured[-2]
    if last <= 0.0:
        return True
    # Of a spectrum in two parts the strong one converges first, and its fast series says nothing about the other.
    if last > 2.0 * _TOLERANCE * captured[-1]:
        return False
    ratio = min(last / before, 0.999) if before > 0.0 else 0.999
    return _SAFETY * last * ratio / (1.0 - ratio) <= _TOLERANCE * captured[-1]
