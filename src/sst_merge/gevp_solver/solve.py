"""``solve_gevp``: one front door for arrays, layers and whole models."""

from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from ..errors import FisherError
from ..fim_calculator import DAMPING, Fisher
from ..fim_calculator.structures import LayerFisher
from .dense import checked_symmetric, damped, generalized_eigh
from .gram import GramGEVP, solve_gram
from .layer import solve_layer
from .result import DenseGEVP, Gains, GEVPResult

__all__ = ["LayeredGEVP", "solve_gevp"]


@dataclass(frozen=True)
class LayeredGEVP:
    """One result per layer, applied to dicts of cores.

    Attributes:
        layers: module → directions of that layer.
    """

    layers: dict[str, GEVPResult]

    @property
    def eigenvalues(self) -> Tensor:
        """All layers' λ together, descending."""
        return torch.sort(torch.cat([r.eigenvalues for r in self.layers.values()]), descending=True).values

    def apply(self, cores: dict[str, Tensor], gains: Gains) -> dict[str, Tensor]:
        """V h(Λ) VᵀF_b vec(M), layer by layer.

        Args:
            cores: M per module.
            gains: h, applied to eigenvalues.

        Returns:
            Filtered cores, per module.
        """
        return {module: result.apply(cores[module], gains) for module, result in self.layers.items()}

    def top(self, k: int) -> "LayeredGEVP":
        """The k best directions of every layer (all of a layer's where it has fewer).

        Args:
            k: how many per layer.

        Returns:
            A result with at most k directions per layer.
        """
        return LayeredGEVP({m: r.top(min(k, len(r.eigenvalues))) for m, r in self.layers.items()})


@overload
def solve_gevp(
    f_harm: Fisher, f_benign: Fisher, k: int | None = ..., *, damping: float = ..., harm_damping: float | None = ...
) -> LayeredGEVP | GramGEVP: ...
@overload
def solve_gevp(
    f_harm: LayerFisher,
    f_benign: LayerFisher,
    k: int | None = ...,
    *,
    damping: float = ...,
    harm_damping: float | None = ...,
) -> GEVPResult: ...
@overload
def solve_gevp(
    f_harm: Any, f_benign: Any, k: int | None = ..., *, damping: float = ..., harm_damping: float | None = ...
) -> DenseGEVP: ...
def solve_gevp(
    f_harm: Any,
    f_benign: Any,
    k: int | None = None,
    *,
    damping: float = DAMPING,
    harm_damping: float | None = None,
) -> LayeredGEVP | GramGEVP | GEVPResult:
    """Solve F_harm v = λ F_benign v.

    To each Fisher ρ times its own mean diagonal is added: ``damping`` = ρ is relative, so it means the same on every
    model, makes F_benign positive definite, and gives directions that no sample sees λ ≈ 1. VᵀF_bV = I holds for the
    damped F_b.

    Args:
        f_harm: a whole-model Fisher, one layer's Fisher, or a plain symmetric (n, n) array or tensor.
        f_benign: the same kind and shape.
        k: keep the k largest λ (per layer for whole models; across layers for form ``low-rank``).
        damping: ρ of F_benign, ≥ 0 (> 0 for form ``low-rank``).
        harm_damping: ρ of F_harm; that of F_benign by default. For form ``low-rank`` a multiple of F_benign's ridge.

    Returns:
        A :class:`LayeredGEVP` (or :class:`GramGEVP` for form ``low-rank``) for whole models, a :class:`GEVPResult` for
        a layer or arrays: ``eigenvalues`` (k,) descending and ``eigenvectors`` (n, k).

    Raises:
        FisherError: not finite, not symmetric, different forms, singular after damping, k out of range.

    Example:
        >>> import torch
        >>> from sst_merge import solve_gevp
        >>> f_harm = torch.diag(torch.tensor([6.0, 1.0, 2.0]))
        >>> f_benign = torch.diag(torch.tensor([2.0, 1.0, 0.5]))
        >>> result = solve_gevp(f_harm, f_benign, damping=0.0)
        >>> result.eigenvalues.round(decimals=6)  # refusal gained per benign cost: 2 / 0.5, 6 / 2 and 1 / 1
        tensor([4., 3., 1.], dtype=torch.float64)
    """
    harm_damping = damping if harm_damping is None else harm_damping
    if damping < 0 or harm_damping < 0:
        raise FisherError(f"damping must be ≥ 0; found damping = {damping}, harm_damping = {harm_damping}")
    if isinstance(f_harm, Fisher) and isinstance(f_benign, Fisher):
        return _solve_model(f_harm, f_benign, k, damping, harm_damping)
    if isinstance(f_harm, LayerFisher) and isinstance(f_benign, LayerFisher):
        return solve_layer(f_harm, f_benign, k, damping=damping, harm_damping=harm_damping)
    if isinstance(f_harm, Fisher | LayerFisher) or isinstance(f_benign, Fisher | LayerFisher):
        raise FisherError(
            f"F_harm is a {type(f_harm).__name__} and F_benign a {type(f_benign).__name__}; both must be of one kind"
        )
    harm = damped(checked_symmetric(torch.as_tensor(f_harm), "F_harm"), harm_damping)
    benign = damped(checked_symmetric(torch.as_tensor(f_benign), "F_benign"), damping)
    if harm.shape != benign.shape:
        raise FisherError(f"F_harm is {tuple(harm.shape)}, F_benign {tuple(benign.shape)}; they must be equal")
    if k is not None and not 1 <= k <= len(harm):
        raise FisherError(f"asked for k = {k} of {len(harm)} directions")
    values, vectors = generalized_eigh(harm, benign, k)
    return DenseGEVP(values, (len(harm), 1), vectors, benign @ vectors)


def _solve_model(
    f_harm: Fisher, f_benign: Fisher, k: int | None, damping: float, harm_damping: float
) -> LayeredGEVP | GramGEVP:
    if f_harm.structure != f_benign.structure or sorted(f_harm.layers) != sorted(f_benign.layers):
        raise FisherError(
            f"F_harm ({f_harm.structure}, {len(f_harm.layers)} modules) and F_benign ({f_benign.structure}, "
            f"{len(f_benign.layers)} modules) do not belong together; collect both with the same adapters and structure"
        )
    if f_harm.form == "low-rank":
        result = solve_gram(f_harm.layers, f_benign.layers, damping=damping, harm_damping=harm_damping)
        return result if k is None else result.top(k)
    layered = LayeredGEVP({
        module: solve_layer(layer, f_benign.layers[module], damping=damping, harm_damping=harm_damping)
        for module, layer in f_harm.layers.items()
    })
    return layered if k is None else layered.top(k)
