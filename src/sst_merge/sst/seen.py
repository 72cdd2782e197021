"""What a merge saw, small enough for its report: λ, what the filter lets pass, and what moved in every module."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gevp_solver import GramGEVP, LayeredGEVP
from .merge_fishers import Cores
from .projection import soft_filter

__all__ = ["moved_by_module", "spectrum"]

_POINTS, _POINTS_OF_A_MODULE = 64, 16


def spectrum(gevp: LayeredGEVP | GramGEVP, *, mu: float | None, hard: int | None) -> dict[str, Any]:
    """All λ of a merge by some of them, evenly spaced in their order.

    Args:
        gevp: directions of the whole model.
        mu: of a soft filter, or None.
        hard: k of a hard filter: the k best directions of every layer pass (across layers for ``GramGEVP``); or None.

    Returns:
        ``directions``: how many there are; ``eigenvalues``: at most 64 of them, the largest first; ``passed``: h of
        each, None where neither μ nor k is given; ``by_module``: module → at most 16 of its λ (empty for directions
        across layers).
    """
    layers = {"": gevp.eigenvalues} if isinstance(gevp, GramGEVP) else _by_layer(gevp)
    values = torch.cat(list(layers.values()))
    passed = None
    if hard is not None:
        passed = torch.cat([(torch.arange(len(of)) < hard).double() for of in layers.values()])
    elif mu is not None:
        passed = soft_filter(mu)(values)
    order = torch.argsort(values, descending=True, stable=True)
    shown = order[_spread(len(order), _POINTS)]
    return {
        "directions": len(values),
        "eigenvalues": _rounded(values[shown]),
        "passed": None if passed is None else _rounded(passed[shown]),
        "by_module": {m: _rounded(of[_spread(len(of), _POINTS_OF_A_MODULE)]) for m, of in layers.items() if m},
    }


def moved_by_module(change: Cores, whole: Cores) -> dict[str, dict[str, float | None]]:
    """What the filter moved in every module.

    Args:
        change: M − M_U per module.
        whole: what would have been moved had all passed, per module.

    Returns:
        Module → ``moved``: ‖M − M_U‖_F; ``captured``: its share of the whole, None where there is nothing to move.
    """
    found: dict[str, dict[str, float | None]] = {}
    for module, core in change.items():
        moved, most = float(core.double().norm()), float(whole[module].double().norm())
        found[module] = {"moved": _short(moved), "captured": _short(moved / most) if most > 0 else None}
    return found


def _by_layer(gevp: LayeredGEVP) -> Mapping[str, Tensor]:
    return {module: result.eigenvalues for module, result in gevp.layers.items()}


def _spread(count: int, most: int) -> Tensor:
    """Places from the first to the last, all where there are few."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def _rounded(values: Tensor) -> list[float]:
    return [_short(value) for value in values.tolist()]


def _short(value: float) -> float:
    """Five digits: a report is read, and not computed with."""
    return float(f"{value:.5g}")
