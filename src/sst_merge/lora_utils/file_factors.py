"""One module's factors as a PEFT file has them."""

from collections.abc import Iterator

from torch import Tensor

from .factors import LoraFactors
from .header import PREFIX
from .layouts import ModuleKind

__all__ = ["factor_parts", "factor_tensors"]


def factor_parts(factors: LoraFactors) -> tuple[Tensor, Tensor, Tensor | None]:
    """A (r, d_in), B (d_out, r) and B's bias apart, without a direction that only the bias needs."""
    a, b, bias = factors.a[:, : factors.d_in], factors.b, factors.bias_delta()
    if bias is not None:
        # A bias that was read from a file is a rank direction of its own, whose row of A is zero once the constant
        # input is cut off; without it, reading and writing again would raise the rank each time.
        used = a.ne(0).any(dim=1)
        a, b = a[used], b[:, used]
    if a.shape[0] == 0:
        a, b = factors.a.new_zeros(1, factors.d_in), factors.b.new_zeros(factors.d_out, 1)
    return a, b, bias


def factor_tensors(module: str, kind: ModuleKind, a: Tensor, b: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """A module's two tensors as the file has them: key, tensor, and its dimension that is the rank."""
    form = kind.form
    leaf = f".{form.leaf}" if form.leaf else ""
    stored_a, stored_b = kind.to_file(a, b)
    yield f"{PREFIX}{module}.{form.a}{leaf}", stored_a, 0
    yield f"{PREFIX}{module}.{form.b}{leaf}", stored_b, 1
