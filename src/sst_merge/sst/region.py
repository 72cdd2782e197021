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
        """What VILA-style identification found worth solving for."""
        return cls(restrict_spaces(spaces, identification), identification.kept)

    def restrict(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The region's part of full cores (p, q): smaller cores, for its modules only."""
        if self.kept is None:
            return dict(cores)
        return {m: cores[m][rows][:, columns] for m, (rows, columns) in self.kept.items()}

    def embed(self, cores: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full cores from the region's, zero outside it, with modules, shapes and types as in ``like``."""
        if self.kept is None:
            return dict(cores)
        full = {m: torch.zeros_like(core) for m, core in like.items()}
        for module, (rows, columns) in self.kept.items():
            full[module][rows[:, None], columns[None, :]] = cores[module]
        return full


def merged_cores(utility: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """M_U + change; modules without a change stay at M_U."""
    return {m: core + change[m] if m in change else core for m, core in utility.items()}
