"""The generalised eigenproblem across all layers, from per-sample gradients alone.

F_h = HᵀH and F_b = BᵀB + D, where the rows of H and B are N_h + N_b scaled per-sample gradients over every layer
together and D is a per-layer ridge. After whitening by D both operators are "identity plus low rank", so
everything happens in the span of the rows, whose geometry is their Gram matrix K (blocks K_hh, K_hb, K_bb):
no Krylov method, nothing of size n × n. Off the span F_h = η and F_b = 1, hence λ = η there.

Without η the filter pulls the samples' few directions all the way and leaves everything else alone, which fits
the calibration prompts and nothing more; with it, unseen directions share the samples' average quotient.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FisherError
from ..fim_calculator.structures import LayerFisher
from .dense import generalized_eigh
from .result import Gains

__all__ = ["GramGEVP", "solve_gram"]

Cores = Mapping[str, Tensor]


@dataclass(frozen=True)
class GramGEVP:
    """Directions across layers, as dicts keyed by module.

    Attributes:
        eigenvalues: λ inside the span, (r,), descending.
        complement: λ of every direction outside the span; None where they were dropped (:meth:`top`).
        basis: orthonormal rows of the whitened span, module → (r, p, q).
        rotation: Y, (r, r): whitened directions are Yᵀ · basis, with YᵀF_b'Y = I.
        rotation_dual: F_b' Y, (r, r).
        ridge: D per module.
    """

    eigenvalues: Tensor
    complement: float | None
    basis: dict[str, Tensor]
    rotation: Tensor
    rotation_dual: Tensor
    ridge: dict[str, float]

    def apply(self, cores: Cores, gains: Gains) -> dict[str, Tensor]:
        """V h(Λ) VᵀF_b vec(M), the complement filtered with h(η).

        Args:
            cores: M per module.
            gains: h, applied to eigenvalues.

        Returns:
            Filtered cores, per module.
        """
        whitened = {m: cores[m].double() * self.ridge[m] ** 0.5 for m in self.basis}
        inside = self._inside(whitened)
        filtered = self.rotation @ (gains(self.eigenvalues) * (self.rotation_dual.T @ inside))
        outside = 0.0
        if self.complement is not None:
            outside = float(gains(torch.tensor([self.complement], dtype=torch.float64))[0])
        change = filtered - outside * inside
        return {
            m: ((outside * whitened[m] + _combine(change, e)) / self.ridge[m] ** 0.5).to(cores[m].dtype)
            for m, e in self.basis.items()
        }

    def top(self, k: int) -> "GramGEVP":
        """The k directions of largest λ, across layers, and nothing else.

        Args:
            k: how many.

        Returns:
            The same bases with k directions.

        Raises:
            FisherError: k is not between 1 and the number of directions.
        """
        if not 1 <= k <= len(self.eigenvalues):
            raise FisherError(f"asked for the {k} best directions; {len(self.eigenvalues)} samples span the space")
        values, rotation = self.eigenvalues[:k], self.rotation[:, :k]
        return GramGEVP(values, None, self.basis, rotation, self.rotation_dual[:, :k], self.ridge)

    def direction(self, index: int) -> dict[str, Tensor]:
        """One eigenvector v with vᵀF_bv = 1.

        Args:
            index: 0 is the largest λ.

        Returns:
            v, per module (p, q).
        """
        column = self.rotation[:, index]
        return {m: _combine(column, e) / self.ridge[m] ** 0.5 for m, e in self.basis.items()}

    def _inside(self, whitened: Cores) -> Tensor:
        parts = [torch.einsum("rpq,pq->r", e, whitened[m]) for m, e in self.basis.items()]
        return torch.stack(parts).sum(0)


def solve_gram(
    harm: Mapping[str, LayerFisher],
    benign: Mapping[str, LayerFisher],
    *,
    damping: float,
    harm_damping: float,
) -> GramGEVP:
    """Solve F_h v = λ F_b v over all layers together.

    Args:
        harm: F_h by module, of form ``low-rank``: a row per sample, the same sample in every module.
        benign: F_b by module, of the same form, same modules and shapes.
        damping: ρ > 0; the ridge of a layer is ρ times the mean diagonal of its F_b (of all layers' F_b where a
            layer's own is 0).
        harm_damping: η, F_h's ridge as a multiple of F_b's ridge.

    Returns:
        Directions inside the span of the samples and the constant λ outside it.

    Raises:
        FisherError: modules differ, damping is 0, or F_b vanishes everywhere.
    """
    if sorted(harm) != sorted(benign):
        raise FisherError("harm and benign statistics cover different modules; collect both with the same adapters")
    if damping <= 0:
        raise FisherError(
            f"a Fisher of form low-rank needs damping > 0 (found {damping}): F_b is 0 off the samples' span"
        )
    ridge = _ridge(benign, damping)
    rows = {m: torch.cat([_whitened(harm[m], ridge[m]), _whitened(benign[m], ridge[m])]) for m in harm}
    n_harm = next(iter(harm.values())).samples
    basis = _orthonormal_rows(rows)
    # Coordinates of every sample in the basis: (N, r).
    coordinates = torch.stack([torch.einsum("npq,rpq->nr", rows[m], basis[m]) for m in rows]).sum(0)
    h, b = coordinates[:n_harm], coordinates[n_harm:]
    eye = torch.eye(coordinates.shape[1], dtype=torch.float64)
    f_benign = b.T @ b + eye
    values, rotation = generalized_eigh(h.T @ h + harm_damping * eye, f_benign)
    return GramGEVP(values, harm_damping, basis, rotation, f_benign @ rotation, ridge)


def _combine(coefficients: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("r,rpq->pq", coefficients, basis)


def _ridge(benign: Mapping[str, LayerFisher], damping: float) -> dict[str, float]:
    means = {m: g.trace() / (g.shape[0] * g.shape[1]) for m, g in benign.items()}
    overall = sum(g.trace() for g in benign.values()) / sum(g.shape[0] * g.shape[1] for g in benign.values())
    if overall <= 0:
        raise FisherError("F_benign is zero in every layer: no benign sample has a gradient; check data and labels")
    return {m: damping * (mean if mean > 0 else overall) for m, mean in means.items()}


def _whitened(gradients: LayerFisher, ridge: float) -> Tensor:
    """Rows whose Gram matrix is the whitened Fisher: the mean over samples is inside the rows."""
    return gradients.root().reshape(-1, *gradients.shape) / ridge**0.5


def _orthonormal_rows(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Orthonormal basis of the rows' span, from Gram matrices summed over layers.

    A Gram matrix squares the condition number, so it is done twice: the second pass works on nearly orthonormal
    rows and restores full precision.
    """
    basis = dict(rows)
    for _ in range(2):
        gram = torch.stack([torch.einsum("npq,mpq->nm", e, e) for e in basis.values()]).sum(0)
        values, vectors = torch.linalg.eigh(gram)
        keep = values > values[-1] * len(values) * 1e-14
        mix = vectors[:, keep] / values[keep].sqrt()
        basis = {m: torch.einsum("nr,npq->rpq", mix, e) for m, e in basis.items()}
    return basis
