"""Running sums of one layer while samples stream by: gradients in, the sums of a :class:`~.base.LayerFisher` out.

Products are taken in the type of the model's core gradients, sums are kept in float64.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

__all__ = ["RunningSums", "SampleSums"]


class RunningSums(ABC):
    """Sums of one layer.

    Args:
        shape: (p, q) of the layer's core.
        device: where the sums are kept while they run.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.shape = shape
        self.device = device

    @abstractmethod
    def add(self, e: Tensor, z: Tensor) -> None:
        """One call of the module inside the current batch.

        Args:
            e: Uᵀδ, (b, t, p), 0 on padding.
            z: Vᵀx, (b, t, q), 0 on padding.
        """

    @abstractmethod
    def close_batch(self, size: int, tokens: int) -> Tensor:
        """The batch is complete.

        Args:
            size: b.
            tokens: of the batch, padding not counted.

        Returns:
            A scalar that is finite exactly where the batch's statistics are.
        """

    def forget_batch(self) -> bool:
        """Drop what :meth:`add` was given since the last complete batch, which is read again in parts.

        Returns:
            False where the sums hold it already, as a structure's may; a full memory then ends the pass.
        """
        return False

    @abstractmethod
    def finish(self) -> dict[str, Any]:
        """The statistics of all batches, on the CPU: the operator's fields beside ``samples`` and ``weight``."""

    def zeros(self, *shape: int) -> Tensor:
        """An empty sum, float64, where the gradients arise."""
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)


class SampleSums(RunningSums):
    """Per-sample gradients g = Σ_t e_t z_tᵀ, complete once the batch is (a module may run more than once in it)."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._pending: Tensor | None = None

    def add(self, e: Tensor, z: Tensor) -> None:
        """Add the call's part to every sample's gradient."""
        gradients = e.transpose(1, 2) @ z
        self._pending = gradients if self._pending is None else self._pending + gradients

    def close_batch(self, size: int, tokens: int) -> Tensor:
        """Hand the complete gradients on."""
        gradients = self._pending
        self._pending = None
        if gradients is None:
            # The loss does not depend on this module: its gradients are zero, and zeros count as samples.
            gradients = torch.zeros(size, *self.shape, device=self.device)
        self.consume(gradients)
        return gradients.abs().amax()

    def forget_batch(self) -> bool:
        """The gradients are not complete yet, and nobody has seen them."""
        self._pending = None
        return True

    @abstractmethod
    def consume(self, gradients: Tensor) -> None:
        """Use the gradients of a batch, (b, p, q)."""
