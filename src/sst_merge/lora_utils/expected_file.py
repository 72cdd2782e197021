"""The file of an adapter as it will most likely be, so that any thread can write its tensors to their places."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from .experts import ExpertKind
from .factors import LoraFactors
from .file_factors import factor_parts, factor_tensors
from .tensor_file import Foretold, TensorFile, write_at

__all__ = ["ExpectedFile", "Ranks"]

Ranks = Literal["uniform", "pattern"]
"""Where ranks differ: all modules get the largest by rows of zeros, or each keeps its own (``rank_pattern``)."""


class ExpectedFile:
    """The weights of an adapter before they are there: with their places known, each is written once, by any thread.

    Args:
        modules: names and factors without values, on the device ``meta``, as they will most likely come.
        dtype: as in :func:`~.writing.write_adapter`.
        ranks: as in :func:`~.writing.write_adapter`.
    """

    def __init__(
        self, modules: Iterable[tuple[str, LoraFactors]], *, dtype: torch.dtype | None, ranks: Ranks = "uniform"
    ) -> None:
        self.layout = _foretold(modules, dtype, ranks)
        self.file: Path | None = None

    def opened(self, file: Path) -> Foretold | None:
        """Say where the data go to from now on; returns their layout."""
        self.file = file
        return self.layout

    def write(self, module: str, factors: LoraFactors) -> bool:
        """Write a module's tensors to their places while :func:`~.writing.write_adapter_files` runs, in any thread.

        Returns:
            False, and nothing was written, where they have no place: the thread that finishes the file writes them.

        Raises:
            AdapterError: values that are not finite or do not fit the type.
        """
        if self.layout is None or self.file is None:
            return False
        a, b, _ = factor_parts(factors)
        tensors = [(key, tensor) for key, tensor, _ in factor_tensors(module, factors.kind, a, b)]
        return write_at(self.file, tensors, self.layout)


def _foretold(modules: Iterable[tuple[str, LoraFactors]], dtype: torch.dtype | None, ranks: Ranks) -> Foretold | None:
    """The layout of a file of modules; None where it depends on values (biases) or on other modules (experts)."""
    tensors = TensorFile(io.BytesIO(), dtype)
    most = 0
    for module, factors in modules:
        if factors.bias or isinstance(factors.kind, ExpertKind):
            return None
        most = max(most, factors.rank)
        for key, tensor, rank_dimension in factor_tensors(module, factors.kind, factors.a, factors.b):
            tensors.write(key, tensor, rank_dimension=rank_dimension)
    return tensors.foretold(most if ranks == "uniform" else None)
