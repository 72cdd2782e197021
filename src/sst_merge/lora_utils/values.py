"""What is asked of every value of a tensor, answered by its smallest and its largest one.

That is much faster than a comparison per value, and adapters and checkpoints are read from end to end for it.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["all_finite", "all_zero"]


def all_finite(tensor: "Tensor") -> bool:
    """Whether no value of a floating-point tensor is NaN or Inf."""
    return all(map(math.isfinite, _extremes(tensor)))


def all_zero(tensor: "Tensor") -> bool:
    """Whether every value of a floating-point tensor is 0, as of one without any."""
    return _extremes(tensor) == (0.0, 0.0)


def _extremes(tensor: "Tensor") -> tuple[float, float]:
    """The smallest and the largest value, both NaN where one is; 0 of an empty tensor."""
    if not tensor.numel():
        return 0.0, 0.0
    # Types of one byte have no arithmetic of their own.
    smallest, largest = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()
    return float(smallest), float(largest)
