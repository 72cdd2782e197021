"""The part of the core spaces in which the problem is solved: all of it, or what VILA identification keeps.

Outside the region the merge stays at the utility patch, so nothing there is stored or solved.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..fim_calculator import Identification, restrict_spaces

__all__ = ["Region", "merged_cores"]


@dataclass(frozen=True)
class Region:
    """Kept rows and columns of every kept module's core.

    Attributes:
        spaces: core spaces of the region.
        kept: module → (kept columns of U, kept columns of V); None where everything is kept.
    """

    spaces: Mapping[str, CoreSpace]
    kept: Mapping[str, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def identified(cls, spaces: Mapping[str, CoreSpace], identification: Identification) -> "Region":
        """What VILA-style identification found worth solving for.

        Args:
            spaces: the full core spaces.
            identification: of :func:`~sst_merge.fim_calculator.vila_parameter_identification`.

        Returns:
            The region.
        """
        return cls(restrict_spaces(spaces, identification), identification.kept)

    def restrict(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The region's part of full cores.

        Args:
            cores: M (p, q) per module.

        Returns:
            Smaller cores, for the region's modules only.
        """
        if self.kept is None:
            return dict(cores)
        return {m: cores[m][rows][:, columns] for m, (rows, columns) in self.kept.items()}

    def embed(self, cores: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Back to full cores, zero outside the region.

        Args:
            cores: of the region.
            like: full cores, for shapes and types.

        Returns:
            Full cores of every module in ``like``.
        """
        if self.kept is None:
            return dict(cores)
        full = {m: torch.zeros_like(core) for m, core in like.items()}
        for module, (rows, columns) in self.kept.items():
            full[module][rows[:, None], columns[None, :]] = cores[module]
        return full


def merged_cores(utility: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """M_U + change; modules without a change stay at M_U.

    Args:
        utility: M_U per module.
        change: filtered patch per module.

    Returns:
        Merged cores per module.
    """
    return {m: core + change[m] if m in change else core for m, core in utility.items()}
