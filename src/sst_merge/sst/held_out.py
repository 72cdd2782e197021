"""Honesty: what the chosen directions do on prompts that did not choose them (design, section 4)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..fim_calculator import Fisher
from ..gevp_solver import GramGEVP, LayeredGEVP, rayleigh_quotients

__all__ = ["HeldOutQuotients", "held_out_quotients"]


@dataclass(frozen=True)
class HeldOutQuotients:
    """λ of the best directions, in-sample and on held-out samples.

    Attributes:
        directions: how many were measured, over all layers.
        in_sample_median: median λ of the solver.
        held_out_median: median of the same directions' quotients on held-out samples.
        in_sample_max: largest λ.
        held_out_of_max: held-out quotient of that direction.
        by_module: module → (λ₁, its held-out quotient); empty for directions across layers.
    """

    directions: int
    in_sample_median: float
    held_out_median: float
    in_sample_max: float
    held_out_of_max: float
    by_module: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, object]:
        """Plain values for a report."""
        return asdict(self)


def held_out_quotients(
    gevp: LayeredGEVP | GramGEVP, harm: Fisher, benign: Fisher, *, best: int = 8
) -> HeldOutQuotients | None:
    """Quotients of the ``best`` directions of every layer (or across layers) under other samples.

    Args:
        gevp: directions solved on the Fisher part of the data.
        harm: held-out harm gradients, of form ``low-rank``, already on F_b's scale.
        benign: held-out benign gradients, of form ``low-rank``.
        best: directions per layer.

    Returns:
        The comparison, or None where no direction has a defined held-out quotient.
    """
    harm_rows, benign_rows = _rows(harm), _rows(benign)
    pairs: list[tuple[str, Tensor, Tensor]] = []
    if isinstance(gevp, GramGEVP):
        count = min(best, len(gevp.eigenvalues))
        gains, costs = [], []
        for index in range(count):
            v = gevp.direction(index)
            gains.append(_along(harm_rows, v).square().sum())
            costs.append(_along(benign_rows, v).square().sum())
        pairs.append(("", gevp.eigenvalues[:count], torch.stack(gains) / torch.stack(costs)))
    else:
        for module, result in gevp.layers.items():
            top = result.top(min(best, len(result.eigenvalues)))
            quotients = rayleigh_quotients(top.eigenvectors, harm_rows[module], benign_rows[module])
            pairs.append((module, top.eigenvalues, quotients))
    in_sample, held_out = torch.cat([p[1] for p in pairs]), torch.cat([p[2] for p in pairs])
    defined = torch.isfinite(held_out)
    if not bool(defined.any()):
        return None
    leader = int(in_sample.masked_fill(~defined, -1.0).argmax())
    return HeldOutQuotients(
        directions=int(defined.sum()),
        in_sample_median=float(in_sample[defined].median()),
        held_out_median=float(held_out[defined].median()),
        in_sample_max=float(in_sample[leader]),
        held_out_of_max=float(held_out[leader]),
        by_module={m: (float(a[0]), float(b[0])) for m, a, b in pairs if m and bool(torch.isfinite(b[0]))},
    )


def _rows(fisher: Fisher) -> dict[str, Tensor]:
    """Rows R with F = RᵀR, per module (N, pq)."""
    return {m: layer.root() for m, layer in fisher.layers.items()}


def _along(rows: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([rows[m] @ v.reshape(-1) for m, v in direction.items()]).sum(0)
