"""The skilled and the safe model as core matrices, and the points between them at which gradients are taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from ..core_space import CoreSpace
from ..errors import FisherError
from .defaults import Point
from .points import LowRankUpdates, point_cores

__all__ = ["RolePatches", "point_settings", "role_patches"]


@dataclass(frozen=True)
class RolePatches:
    """Weighted sums of the adapters' cores, by role and module.

    Attributes:
        utility: M_U, Σ w M over role ``utility``.
        safety: M_S, Σ w M over role ``safety``; zeros where there is none.
    """

    utility: dict[str, Tensor]
    safety: dict[str, Tensor]

    @property
    def towards_safe(self) -> dict[str, Tensor]:
        """From the skilled model towards the safe one: M_S, or −M_U where the base itself is the safe model."""
        if any(bool(core.any()) for core in self.safety.values()):
            return self.safety
        return {m: -core for m, core in self.utility.items()}

    def point(self, where: str, role: str, share: float = 1.0) -> dict[str, Tensor] | None:
        """Cores of the model at which a role's gradients are taken (design, section 3).

        Args:
            where: ``trust``, M_U and a share of the way towards the safe model; ``merged``, the plain sum M_U + M_S;
                the role's ``own`` sum; or the ``base``.
            role: whose Fisher it is, ``utility`` or ``safety``.
            share: how far to go for ``trust``.

        Returns:
            Cores per module, or None for the base itself.

        Raises:
            FisherError: another word for ``where``.
        """
        if where not in get_args(Point):
            raise FisherError(f"unknown point {where!r}; known: {', '.join(get_args(Point))}")
        if where == "base":
            return None
        if where == "own":
            return self.safety if role == "safety" else self.utility
        if where == "trust":
            return {m: self.utility[m] + share * step for m, step in self.towards_safe.items()}
        return {m: self.utility[m] + self.safety[m] for m in self.utility}


def role_patches(adapters: Sequence[LowRankUpdates], spaces: Mapping[str, CoreSpace]) -> RolePatches:
    """Coordinates of every adapter in the shared spaces, summed by role.

    Args:
        adapters: with roles and weights.
        spaces: core spaces in which their updates lie.

    Returns:
        Cores on the spaces' device and type.
    """
    zeros = {m: space.coordinates(None) for m, space in spaces.items()}
    return RolePatches(
        utility=zeros | point_cores(adapters, spaces, role="utility"),
        safety=zeros | point_cores(adapters, spaces, role="safety"),
    )


def point_settings(
    adapters: Sequence[LowRankUpdates], where: str, role: str, *, share: float | None, trust_budget: float | None
) -> dict[str, Any]:
    """How a point was chosen, as it is written beside statistics that were taken there.

    Args:
        adapters: with roles and weights.
        where: as in :meth:`RolePatches.point`.
        role: as in :meth:`RolePatches.point`.
        share: of the way towards the safe model, for ``trust``.
        trust_budget: under which the share was found, nats per benign answer token; None where it was given.

    Returns:
        Plain values by name.
    """
    chosen: dict[str, Any] = {"point": where}
    if where != "base":
        counted = [adapter for adapter in adapters if where != "own" or adapter.role == role]
        chosen |= {"roles": [a.role for a in counted], "weights": [a.weight for a in counted]}
    if where == "trust":
        chosen |= {"share": share, "trust_budget": trust_budget}
    return chosen
