"""How a merge is computed, whatever the method: chance, cut, precision and device."""

from dataclasses import dataclass

import torch

from ..errors import MergeError

__all__ = ["DEFAULT_SETTINGS", "MergeSettings"]


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """Settings that every method has in common.

    Attributes:
        seed: of every random choice.
        rank: largest rank of the output; None for the exact result, whose rank is at most the sum of the adapters'.
        energy: keep the fewest singular values that hold this share of ‖ΔW‖² per module; None for all.
        compute_dtype: float32 or float64: type of the merged factors, and of ΔW for methods that work on it; core
            matrices are float64 either way and rounded once.
        device: where the algebra runs.
        assume_same_base: merge adapters that name different bases.
        modules_to_save_from: name of the adapter whose whole weights (heads, embeddings) are written where several
            adapters have them and disagree.

    Raises:
        MergeError: a type or device that the algebra cannot use, or an energy that is not a share.
    """

    seed: int = 0
    rank: int | None = None
    energy: float | None = None
    compute_dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    assume_same_base: bool = False
    modules_to_save_from: str | None = None

    def __post_init__(self) -> None:
        if self.compute_dtype not in {torch.float32, torch.float64}:
            raise MergeError(
                f"compute_dtype = {self.compute_dtype}: factorisations need torch.float32 or torch.float64; the type "
                f"of the written file is set apart (dtype)"
            )
        if torch.device(self.device).type == "mps":
            raise MergeError(
                f"device = {self.device}: core matrices need float64, which it does not have; take cpu or cuda"
            )
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise MergeError(f"energy = {self.energy} does not fit: expected a share of ‖ΔW‖² above 0 and at most 1")


DEFAULT_SETTINGS = MergeSettings()
