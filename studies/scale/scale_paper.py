"""What breaks first at a thousand adapters, and at 405 billion parameters: arithmetic from shapes, nothing is measured.

Every formula names what the code holds at once; bytes are decimal (1 GB = 10⁹ bytes).
"""

from collections.abc import Callable

from scale_laws import exact_sum
from scale_models import Shape

__all__ = ["LLAMA_405B", "LLAMA_7B", "MOST", "WALLS", "adapters_within", "walls"]

LLAMA_7B = Shape("7B", 4096, 11008, 32, 32, 32, 32000)
LLAMA_405B = Shape("405B", 16384, 53248, 126, 128, 8, 128256)
_RANDOM, _ROOT = 128, 512  # columns of a sketch of inputs (sst.wide_inputs)
_DELTAS = 3  # ΔW that TIES holds at once, as measured at 70B shapes; DARE and DELLA more (studies/merging)
_KEPT = 1.45  # numbers that a pass with gradients keeps, times those that the layers give out (merging.data_cost)

MOST = 100_000
"""Adapters beyond which nothing is looked for."""

Formula = Callable[[Shape, int, int], float]


def _cores(shape: Shape, n: int, rank: int) -> list[tuple[int, int, int, int]]:
    """d_out, d_in, p and q of every module."""
    sides = shape.modules.values()
    return [(out, into, min(out, n * rank), min(into, n * rank)) for out, into in sides]


def read_bytes(shape: Shape, n: int, rank: int) -> float:
    """All adapters in 16 bits."""
    return 2.0 * n * rank * sum(out + into for out, into in shape.modules.values())


def written_bytes(shape: Shape, n: int, rank: int) -> float:
    """The exact sum in 16 bits, of rank min(n r, sides)."""
    return sum(2.0 * min(p, q) * (out + into) for out, into, p, q in _cores(shape, n, rank))


def sum_memory(shape: Shape, n: int, rank: int) -> float:
    """One module: factors, their stack and its QR in float64, and n coordinates (p, q)."""
    return max(8.0 * (3 * n * rank * (out + into) + (n + 2) * p * q) for out, into, p, q in _cores(shape, n, rank))


def delta_memory(shape: Shape, n: int, rank: int) -> float:
    """One module: some ΔW in float32, whatever n is."""
    return max(4.0 * _DELTAS * out * into for out, into in shape.modules.values())


def weights(shape: Shape, n: int, rank: int) -> float:
    """The base in bfloat16."""
    return 2.0 * shape.parameters


def bases(shape: Shape, n: int, rank: int) -> float:
    """U and V of all modules, float32 and once more in the model's 16 bits; V is twice as wide (inputs: wide)."""
    return sum(6.0 * (out * p + into * min(into, 2 * q)) for out, into, p, q in _cores(shape, n, rank))


def utility_fishers(shape: Shape, n: int, rank: int) -> float:
    """A Kronecker Fisher per adapter and module, float64."""
    return sum(8.0 * n * (p * p + min(into, 2 * q) ** 2) for _, into, p, q in _cores(shape, n, rank))


def sketches(shape: Shape, n: int, rank: int) -> float:
    """Of all modules' inputs at once, float64: Ω and its image, two sums of p rows, a root of up to 512 columns."""
    return sum(
        8.0 * into * (2 * (q + _RANDOM) + 2 * p + min(_ROOT, n * (q + _RANDOM)))
        for _, into, p, q in _cores(shape, n, rank)
    )


def activations(shape: Shape, n: int, rank: int) -> float:
    """A pass with gradients over 512 tokens in 16 bits: what the layers give out, and logits at 128 answer tokens."""
    given_out = sum(out for out, _ in shape.modules.values())
    return 512 * 2.0 * _KEPT * given_out + 128 * 4.0 * 5.5 * shape.vocabulary


WALLS: dict[str, tuple[str, Formula]] = {
    "adapters to read": ("2 n r Σ(d_out + d_in)", read_bytes),
    "exact sum to write": ("2 Σ min(n r, d)(d_out + d_in)", written_bytes),
    "exact sum, memory (one module)": ("8 (3 n r (d_out + d_in) + (n + 2) p q)", sum_memory),
    "TIES, memory (one module)": ("3 · 4 d_out d_in", delta_memory),
    "base in bfloat16": ("2 · parameters", weights),
    "sst, bases U and V": ("6 Σ(d_out p + d_in q)", bases),
    "sst, a Fisher per adapter": ("8 n Σ(p² + q²)", utility_fishers),
    "sst, sketches of inputs": ("8 Σ d_in (2 (n r + 128) + 2 p + 512)", sketches),
    "sst, one sample of 512 tokens": ("2 · 1.45 T Σ d_out + 22 · answers · vocabulary", activations),
}


def walls(shape: Shape, n: int, rank: int) -> dict[str, float]:
    """Bytes of everything that grows.

    Args:
        shape: of the base.
        n: adapters.
        rank: of each.

    Returns:
        By what it is.
    """
    return {name: formula(shape, n, rank) for name, (_, formula) in WALLS.items()}


def adapters_within(formula: Formula, shape: Shape, rank: int, limit: float) -> int:
    """The most adapters that fit.

    Args:
        formula: bytes, rising with the adapters.
        shape: of the base.
        rank: of each.
        limit: bytes.

    Returns:
        n, at most :data:`MOST`.
    """
    low, high = 0, MOST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if formula(shape, middle, rank) <= limit else (low, middle - 1)
    return low


def sum_operations(shape: Shape, n: int, rank: int) -> float:
    """Of the exact sum."""
    return exact_sum(shape.modules, n, rank)


def step_operations(shape: Shape, n: int, rank: int) -> float:
    """Of one step of conjugate gradients towards M_U, n products of two sides in each module."""
    return sum(2.0 * n * (p * p * q + p * q * q) for _, _, p, q in _cores(shape, n, rank))
