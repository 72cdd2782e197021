"""Running sums of one layer while samples stream by: gradients in, a :class:`LayerFisher` out.

Products are taken in the type of the model's core gradients, sums are kept in float64.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import FisherError
from .structures import BlockFisher, DiagonalFisher, KroneckerFisher, LayerFisher, SampleGradients

__all__ = ["Accumulator", "new_accumulator"]

_FLUSH_ROWS = 64
"""Gradients gathered before one rank-k update of a (pq, pq) matrix: k = 1 would be bound by memory traffic."""


class Accumulator(ABC):
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

    @abstractmethod
    def finish(self, samples: int) -> LayerFisher:
        """The statistics of all batches, on the CPU.

        Args:
            samples: N.
        """

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)


class _PerSample(Accumulator):
    """Per-sample gradients g = Σ_t e_t z_tᵀ, complete once the batch is (a module may run more than once in it)."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._pending: Tensor | None = None

    def add(self, e: Tensor, z: Tensor) -> None:
        gradients = e.transpose(1, 2) @ z
        self._pending = gradients if self._pending is None else self._pending + gradients

    def close_batch(self, size: int, tokens: int) -> Tensor:
        gradients = self._pending
        self._pending = None
        if gradients is None:
            # The loss does not depend on this module: its gradients are zero, and zeros count as samples.
            gradients = torch.zeros(size, *self.shape, device=self.device)
        self._consume(gradients)
        return gradients.abs().amax()

    @abstractmethod
    def _consume(self, gradients: Tensor) -> None:
        """Use the gradients of a batch, (b, p, q)."""


class _Diagonal(_PerSample):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._sum, self._squares = self._zeros(*shape), self._zeros(*shape)

    def _consume(self, gradients: Tensor) -> None:
        wide = gradients.to(torch.float64)
        self._sum += wide.sum(0)
        self._squares += wide.square().sum(0)

    def finish(self, samples: int) -> LayerFisher:
        return DiagonalFisher(samples=samples, gradient_sum=self._sum.cpu(), square_sum=self._squares.cpu())


class _Block(_PerSample):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        size = shape[0] * shape[1]
        self._outer = self._zeros(size, size)
        self._rows: list[Tensor] = []

    def _consume(self, gradients: Tensor) -> None:
        self._rows.append(gradients.flatten(1))
        if sum(len(rows) for rows in self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            rows = torch.cat(self._rows).to(torch.float64)
            self._outer.addmm_(rows.T, rows)
            self._rows.clear()

    def finish(self, samples: int) -> LayerFisher:
        self._flush()
        outer = self._outer.cpu()
        # A blocked matrix product may differ in the last bit across the diagonal.
        return BlockFisher(samples=samples, outer=(outer + outer.T) / 2, core_shape=self.shape)


class _LowRank(_PerSample):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._rows: list[Tensor] = []

    def _consume(self, gradients: Tensor) -> None:
        self._rows.append(gradients.cpu())

    def finish(self, samples: int) -> LayerFisher:
        return SampleGradients(samples=samples, rows=torch.cat(self._rows))


class _Kronecker(Accumulator):
    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._grads, self._inputs = self._zeros(shape[0], shape[0]), self._zeros(shape[1], shape[1])
        self._calls = 0
        self._tokens = 0

    def add(self, e: Tensor, z: Tensor) -> None:
        deltas, inputs = e.flatten(0, 1), z.flatten(0, 1)
        self._grads += deltas.T @ deltas
        self._inputs += inputs.T @ inputs
        self._calls += 1

    def close_batch(self, size: int, tokens: int) -> Tensor:
        # A module that runs k times in a forward pass sees k times the tokens.
        self._tokens += tokens * max(1, self._calls)
        self._calls = 0
        return self._grads.abs().amax() + self._inputs.abs().amax()

    def finish(self, samples: int) -> LayerFisher:
        grads, inputs = self._grads.cpu(), self._inputs.cpu()
        return KroneckerFisher(
            samples=samples,
            tokens=self._tokens,
            gradient_outer=(grads + grads.T) / 2,
            input_outer=(inputs + inputs.T) / 2,
        )


def new_accumulator(structure: str, shape: tuple[int, int], device: torch.device) -> Accumulator:
    """Empty sums of a structure.

    Args:
        structure: name of a Fisher structure.
        shape: (p, q).
        device: where the gradients arise.

    Returns:
        The accumulator.

    Raises:
        FisherError: unknown structure.
    """
    kinds: dict[str, type[Accumulator]] = {
        "diagonal": _Diagonal,
        "kronecker": _Kronecker,
        "block": _Block,
        "lowrank": _LowRank,
    }
    if structure not in kinds:
        raise FisherError(f"unknown Fisher structure {structure!r}; known: {', '.join(kinds)}")
    return kinds[structure](shape, device)
