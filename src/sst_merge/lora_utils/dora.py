"""DoRA (Liu et al., arXiv:2402.09353): every row of the adapted weight has a learnt length.

    W′ = diag(m / ‖W + s·B·A‖) (W + s·B·A),   ΔW = W′ − W = diag(g − 1) W + diag(g) s·B·A,   g = m / ‖W + s·B·A‖

with ‖·‖ of the rows, which are the outputs, whatever orientation the base stores (PEFT's ``dora.py``: rows of the
transposed weight for Conv1D and embeddings). So ΔW depends on the base, and is of full rank unless g = 1; the less the
lengths have moved, the nearer it is to the rank of B.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import AdapterError
from .conversion import Conversion, Converted, ConvertedSource, FormedUpdate, convert_aside
from .factors import LoraFactors
from .header import Header
from .open_base import OpenBase
from .sources import FileSource
from .stored_tensors import stored_tensors

__all__ = ["dora_delta", "fold_dora"]

_REASON = (
    "use_dora is True: DoRA gives every row of the adapted weight a learnt length, so that ΔW depends on the base's "
    "weights"
)


def fold_dora(
    file: Path, header: Header, conversion: Conversion, *, base_model: str | None, task_type: str | None
) -> tuple[ConvertedSource, Converted]:
    """Turn a DoRA into plain factors; one layer of the base is in memory at a time.

    Args:
        file: of the adapter.
        header: of it, with a magnitude for every module.
        conversion: where the base is, rank and limit.
        base_model: that the adapter names.
        task_type: that the adapter names.

    Returns:
        The factors, and what it cost.

    Raises:
        AdapterError: no base, one of other shapes, or more lost than the limit.
        BaseModelError: the base cannot be read.
    """
    base = OpenBase.of(conversion, base_model, f"{file}: {_REASON}", tuple(header.modules), task_type=task_type)
    source = FileSource(file, header.modules)

    def updates() -> Iterator[FormedUpdate]:
        dtype: torch.dtype | None = None
        for module in header.modules:
            source.check(module)
            factors = source.read(module, dtype)
            dtype = factors.b.dtype  # one for all: that of the first
            kind = base.kind(module, factors.kind)
            weight = base.weight(module, (factors.d_out, factors.d_in), kind, dtype=dtype)
            magnitude = _magnitude(file, header.magnitudes[module])
            yield FormedUpdate(module, dora_delta(weight, factors, magnitude), kind, factors.rank)

    converted = convert_aside(updates(), conversion, where=str(file), kind="DoRA")
    return converted, Converted("DoRA", base.name, converted.figures)


def dora_delta(weight: Tensor, factors: LoraFactors, magnitude: Tensor) -> Tensor:
    """ΔW of one module, in the weight's type; the lengths are computed in float64.

    Args:
        weight: W (d_out, d_in) of the base.
        factors: s·B and A.
        magnitude: m (d_out,).
    """
    adapted = torch.addmm(weight, factors.b, factors.a)
    gain = magnitude.double() / torch.linalg.vector_norm(adapted, dim=1, dtype=torch.float64)
    del adapted
    # W′ − W would cancel; of these two terms each has its own digits.
    scaled = (gain[:, None] * factors.b.double()).to(weight.dtype)
    return (scaled @ factors.a).addcmul_(weight, (gain - 1.0).to(weight.dtype)[:, None])


def _magnitude(file: Path, key: str) -> Tensor:
    (found,) = stored_tensors(file, [key])
    if not bool(torch.isfinite(found).all()):
        raise AdapterError(f"{file}: tensor {key!r} holds NaN or Inf, expected finite numbers: use another checkpoint")
    return found
