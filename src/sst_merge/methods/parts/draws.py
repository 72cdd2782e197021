"""Random numbers for single entries, 32 bits each, drawn faster than torch does."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["EntryDraws"]


class EntryDraws:
    """Independent uniform numbers in [0, 1) of 32 bits, one an entry, row after row.

    By PCG64 (O'Neill, HMC-CS-2014-0905), whose stream NumPy promises not to change. A row begins with a new word, so
    that the draws of a matrix are those of its blocks of rows in turn. They are made on the CPU, so that every device
    and type drops the same entries.
    """

    def __init__(self, generator: torch.Generator) -> None:
        """Take the seed of a generator, whatever was drawn from it before."""
        self._bits = np.random.PCG64(generator.initial_seed())

    def below(self, density: float | Tensor, like: Tensor) -> Tensor:
        """Which of the next rows' entries are drawn below a probability.

        Args:
            density: one number, or one per entry (m, n).
            like: (m, n), says shape, type and device of the answer.

        Returns:
            1 where the draw is below, 0 elsewhere, (m, n).
        """
        drawn = self._next(*like.shape)
        if isinstance(density, Tensor):
            # 24 bits are whole numbers of float32.
            below = torch.from_numpy((drawn >> 8).astype(np.float32)).to(like.device).mul_(2.0**-24) < density
            return below.to(like.dtype)
        kept = drawn < math.ceil(density * 2.0**32)
        return torch.from_numpy(kept.astype(np.float32)).to(like)

    def _next(self, rows: int, columns: int) -> npt.NDArray[np.uint32]:
        words = self._bits.random_raw(rows * -(-columns // 2))
        halves: npt.NDArray[np.uint32] = words.astype("<u8", copy=False).view("<u4").reshape(rows, -1)
        return halves[:, :columns]
