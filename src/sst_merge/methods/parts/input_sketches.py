"""Second moments of what goes into modules, as sketches: all modules in one pass, a few hundred columns each.

    G = E[x xᵀ] ≈ Y (ΩᵀY)⁺ Yᵀ,    Y = G Ω

(Nyström approximation from a single pass; Tropp, Yurtsever, Udell and Cevher, arXiv:1706.05736). Ω holds the columns
that somebody needs exactly, here a core space's V, and random ones beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import processes
from ...core_space import CoreSpace
from ...data_loader.batch import Batch
from .input_moments import add_up, each_input

__all__ = ["InputSketch", "input_sketches"]

_NOTHING = 1e-10
"""Directions of G below this share of its largest are rounding."""


@dataclass(frozen=True)
class InputSketch:
    """What one pass leaves of G.

    Attributes:
        test: Ω, (d, m).
        image: G Ω, (d, m), float64.
        diagonal: of G, (d,), exact.
    """

    test: Tensor
    image: Tensor
    diagonal: Tensor

    def root(self) -> Tensor:
        """Z, (d, m') with Z Zᵀ ≈ G, m' ≤ m; equal to G where its rank is at most m."""
        small = self.test.T @ self.image
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        kept = values > _NOTHING * values.amax().clamp_min(0.0)
        return self.image @ (vectors[:, kept] / values[kept].sqrt())


def input_sketches(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Sequence[Batch],
    modules: Sequence[str],
    *,
    columns: int,
    generator: torch.Generator,
    point: Mapping[str, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, InputSketch]:
    """Sketches of E[x xᵀ] over all tokens that are not padding, by one forward pass.

    Args:
        model: the base model; its weights are only read.
        spaces: core spaces; V is part of every Ω.
        batches: text.
        modules: linear modules to look at.
        columns: random columns beside V.
        generator: of these.
        point: cores of the model whose activations are taken; the base itself by default.
        progress: called with the number of samples done.

    Returns:
        Module → its sketch, on the device of its core space, whatever the module's is.

    Raises:
        DataError: no batches.
        MergeError: a module whose inputs cannot be told apart by token.
    """
    tests, images, diagonals = {}, dict[str, Tensor](), dict[str, Tensor]()
    for module in modules:
        right = spaces[module].right.double()
        more = torch.randn(len(right), min(columns, len(right)), generator=generator, dtype=torch.float64)
        tests[module] = torch.linalg.qr(torch.cat([right, more.to(right.device)], dim=1))[0]

    def add(module: str, rows: Tensor) -> None:
        test = tests[module] = tests[module].to(rows.device)
        image, diagonal = rows.T @ (rows @ test), rows.square().sum(0)
        if module in images:
            image, diagonal = images[module] + image, diagonals[module] + diagonal
        # Both or neither, should memory be full.
        images[module], diagonals[module] = image, diagonal

    tokens = each_input(model, spaces, batches, modules, add, point=point, progress=progress)
    if processes.count() > 1:
        add_up(diagonals, {module: (len(test),) for module, test in tests.items()}, 0)
        tokens = add_up(images, {module: tuple(test.shape) for module, test in tests.items()}, tokens)
    found = {}
    for m in modules:
        device = spaces[m].right.device
        found[m] = InputSketch(
            tests[m].to(device), images.pop(m).to(device) / tokens, diagonals.pop(m).to(device) / tokens
        )
    return found
