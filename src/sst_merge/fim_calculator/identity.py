"""Short names of core spaces and of points in them, so that statistics of one are never taken for those of another.

Statistics travel between machines, and linear algebra rounds differently on each. So the names are made of a few
sketches aᵀ X b, with vectors a and b that the module's name decides, rounded far above such differences.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core_space import CoreSpace

__all__ = ["fingerprint", "point_digest"]

_SKETCHES = 4


def fingerprint(spaces: Mapping[str, CoreSpace]) -> str:
    """SHA-256 over the module names, kinds, shapes and bases of core spaces.

    Args:
        spaces: module name to its core space.

    Returns:
        64 hexadecimal digits; equal where core matrices mean the same updates, up to a thousandth.
    """
    digest = hashlib.sha256()
    for module in sorted(spaces):
        space = spaces[module]
        digest.update(f"{module}|{space.kind}|{space.bias}".encode())
        for side, basis in (("left", space.left), ("right", space.right)):
            digest.update(f"|{tuple(basis.shape)}|{round(1000 * _sketch(basis, f'{module}/{side}'))}".encode())
    return digest.hexdigest()


def point_digest(point: Mapping[str, Tensor] | None) -> str:
    """Sixteen hexadecimal digits that tell points apart.

    Args:
        point: cores M by module, or None for the base; a module that is left out has M = 0.

    Returns:
        The digits; equal where the points agree to about four digits.
    """
    cores = {m: core for m, core in (point or {}).items() if bool(core.any())}
    norm = sum(float(core.double().square().sum()) for core in cores.values()) ** 0.5
    words = [f"{norm:.5g}"]
    if cores:
        for index in range(_SKETCHES):
            total = sum(_sketch(cores[m], f"{m}/{index}") for m in sorted(cores))
            words.append(str(round(1000 * total / norm)))
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:16]


def _sketch(matrix: Tensor, name: str) -> float:
    """aᵀ X b with entries of a and b uniform between -1 and 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1 for n in matrix.shape)
    return float(a @ matrix.detach().to("cpu", torch.float64) @ b)
