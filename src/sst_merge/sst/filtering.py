"""Safety filters on a whole model: (M_U, M_S) → M, whatever the Fishers' structure.

Two implementations of one formula. :class:`SpectralFilter` uses generalised eigenvectors; :class:`SumFilter` serves
several utility adapters whose benign Fisher is a sum of operators, where the soft filter is a linear system
(conjugate gradients) and the hard one takes the k best directions from LOBPCG.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator.structures import LayerFisher
from ..gevp_solver import DampedFisher, GramGEVP, LayeredGEVP, OperatorSum, lobpcg_gevp, solve_linear
from .projection import keep_all, soft_filter

__all__ = ["SafetyFilter", "SpectralFilter", "SumFilter", "fisher_weighted_utility"]

Cores = Mapping[str, Tensor]


class SafetyFilter(Protocol):
    """V h(Λ) VᵀF_b applied to a patch."""

    def soft(self, patch: Cores, mu: float) -> dict[str, Tensor]:
        """Gain λ/(λ+μ)."""
        ...

    def hard(self, patch: Cores, k: int) -> dict[str, Tensor]:
        """Gain 1 on the k best directions, 0 elsewhere."""
        ...


@dataclass(frozen=True)
class SpectralFilter:
    """The filter in a basis of generalised eigenvectors.

    Attributes:
        gevp: directions of the whole model.
    """

    gevp: LayeredGEVP | GramGEVP

    def soft(self, patch: Cores, mu: float) -> dict[str, Tensor]:
        """Gain λ/(λ+μ)."""
        return self.gevp.apply(dict(patch), soft_filter(mu))

    def hard(self, patch: Cores, k: int) -> dict[str, Tensor]:
        """Gain 1 on the k best directions."""
        return self.gevp.top(k).apply(dict(patch), keep_all)


@dataclass(frozen=True)
class SumFilter:
    """The filter for a benign Fisher that is a sum over utility adapters.

    Attributes:
        harm: F_h per module, an operator.
        terms: the utility adapters' F_i per module.
        weights: their w_i.
        damping: ρ of Σ w_i F_i.
        harm_damping: ρ of F_h.
    """

    harm: Mapping[str, LayerFisher]
    terms: Mapping[str, tuple[LayerFisher, ...]]
    weights: tuple[float, ...]
    damping: float
    harm_damping: float

    def soft(self, patch: Cores, mu: float) -> dict[str, Tensor]:
        """(F_h + μ F_b)⁻¹ F_h M by conjugate gradients, which is V λ/(λ+μ) VᵀF_b M."""
        filtered = {}
        for module, core in patch.items():
            f_harm, f_benign = self._harm(module), self._benign(module)
            system = OperatorSum((f_harm, f_benign), (1.0, mu))
            filtered[module] = solve_linear(system, f_harm.matvec(core.double())).to(core.dtype)
        return filtered

    def hard(self, patch: Cores, k: int) -> dict[str, Tensor]:
        """The k best directions of every layer, by LOBPCG."""
        return {
            module: lobpcg_gevp(self._harm(module), self._benign(module), k).apply(core, keep_all)
            for module, core in patch.items()
        }

    def _harm(self, module: str) -> DampedFisher:
        return DampedFisher(self.harm[module], self.harm_damping)

    def _benign(self, module: str) -> OperatorSum:
        return OperatorSum(tuple(DampedFisher(f, self.damping) for f in self.terms[module]), self.weights)


def fisher_weighted_utility(
    patches: Mapping[str, tuple[Tensor, ...]],
    fishers: Mapping[str, tuple[LayerFisher, ...]],
    weights: tuple[float, ...],
    *,
    damping: float,
) -> dict[str, Tensor]:
    """M_U = argmin Σ wᵢ (M − Mᵢ)ᵀ(Fᵢ + ρᵢI)(M − Mᵢ): every adapter keeps what its own Fisher cares about.

    The ridge ρᵢ = damping · mean diag Fᵢ enters both sides, so one adapter alone comes back exactly, and directions
    no Fisher sees get the plain weighted average.

    Args:
        patches: Mᵢ per module.
        fishers: Fᵢ per module, same order.
        weights: wᵢ ≥ 0, not all 0.
        damping: ρ.

    Returns:
        M_U per module.

    Raises:
        MergeError: negative weights, or all 0.
    """
    if min(weights) < 0 or sum(weights) <= 0:
        raise MergeError(f"utility: fisher needs weights ≥ 0, not all 0; found {list(weights)}. Use utility: sum")
    merged = {}
    for module, cores in patches.items():
        total = OperatorSum(tuple(DampedFisher(f, damping) for f in fishers[module]), weights)
        if bool((total.diagonal > 0).all()):
            pulls = [w * t.matvec(core.double()) for t, w, core in zip(total.terms, weights, cores, strict=True)]
            merged[module] = solve_linear(total, torch.stack(pulls).sum(0)).to(cores[0].dtype)
        else:
            # No adapter's data reaches this layer: nothing tells the adapters apart, so they are averaged.
            weighted = torch.stack([w * core for w, core in zip(weights, cores, strict=True)])
            merged[module] = weighted.sum(0) / sum(weights)
    return merged
