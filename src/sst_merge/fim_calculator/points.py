"""From adapters to core spaces, and to their coordinates in them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..errors import FisherError
from ..lora_utils import LoraFactors

__all__ = ["LowRankUpdates", "auto_structure", "build_spaces", "point_cores"]

_MAX_BLOCK = 1024


class LowRankUpdates(Protocol):
    """What the estimators need of an adapter."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def role(self) -> str:
        """``utility`` or ``safety``."""
        ...

    @property
    def weight(self) -> float:
        """Factor in a weighted merge."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """Canonical names of the modules it touches."""
        ...

    def factors(self, module: str, *, dtype: torch.dtype | None = None) -> LoraFactors:
        """The exact update of one module.

        Args:
            module: canonical name.
            dtype: type of the factors.
        """
        ...


def _factors(adapters: Sequence[LowRankUpdates], module: str, device: torch.device | str) -> list[LoraFactors | None]:
    """Every adapter's update of one module in float64, with a bias column on all where one has it."""
    found = [
        a.factors(module, dtype=torch.float64).to(device=device) if module in a.modules else None for a in adapters
    ]
    if any(f is not None and f.bias for f in found):
        found = [None if f is None else f.with_bias() for f in found]
    return found


def build_spaces(
    adapters: Sequence[LowRankUpdates],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    modules: Collection[str] | None = None,
) -> dict[str, CoreSpace]:
    """The core space of every module that any adapter touches, with aligned bases.

    The bases are computed in float64 and rounded once.

    Args:
        adapters: at least one.
        dtype: type of the bases.
        device: where the factorisations run and the bases stay.
        modules: only these; all by default.

    Returns:
        Module name to core space, in the adapters' order of modules.

    Raises:
        FisherError: no adapter, or ``modules`` names one that no adapter touches.
    """
    touched = list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
    unknown = sorted(set(modules or ()) - set(touched))
    if not touched or unknown:
        raise FisherError(
            f"no adapter touches module {unknown[0]}" if unknown else "no adapters, or adapters without modules"
        )
    spaces: dict[str, CoreSpace] = {}
    for module in touched:
        if modules is None or module in modules:
            exact = CoreSpace.spanned_by([f for f in _factors(adapters, module, device) if f is not None])
            spaces[module] = CoreSpace(exact.left.to(dtype), exact.right.to(dtype), exact.kind, exact.bias)
    return spaces


def point_cores(
    adapters: Sequence[LowRankUpdates], spaces: Mapping[str, CoreSpace], *, role: str | None = None
) -> dict[str, Tensor]:
    """Σ weight · M over adapters: the plain weighted sum in core coordinates.

    Args:
        adapters: summed in this order.
        spaces: core spaces in which the updates lie.
        role: only adapters of this role; all by default.

    Returns:
        Module name to M (p, q), in the type and on the device of the space; modules that no such adapter touches
        are left out (M = 0).
    """
    chosen = [adapter for adapter in adapters if role is None or adapter.role == role]
    cores: dict[str, Tensor] = {}
    for module, space in spaces.items():
        wide = CoreSpace(space.left.double(), space.right.double(), space.kind, space.bias)
        for adapter, found in zip(chosen, _factors(chosen, module, space.left.device), strict=True):
            if found is not None:
                update = found.with_bias() if space.bias else found
                part = adapter.weight * wide.coordinates(update)
                cores[module] = cores[module] + part if module in cores else part
    return {module: core.to(spaces[module].left.dtype) for module, core in cores.items()}


def auto_structure(spaces: Mapping[str, CoreSpace], memory_budget_bytes: int = 2 << 30) -> str:
    """The richest structure that a layer-wise Fisher can afford.

    Args:
        spaces: core spaces.
        memory_budget_bytes: for the sums of one Fisher over all modules.

    Returns:
        ``block`` while pq ≤ 1024 in every module and all (pq)² float64 sums fit the budget, else ``kronecker``.
    """
    sizes = [space.shape[0] * space.shape[1] for space in spaces.values()]
    fits = max(sizes, default=0) <= _MAX_BLOCK and sum(8 * size**2 for size in sizes) <= memory_budget_bytes
    return "block" if fits else "kronecker"
