"""Two adapters against each other, from the thin SVDs of their updates: cosine, shared directions, sign conflicts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core_space import ThinSVD
from .names import layer_of
from .signs import SignCounts

__all__ = ["Collision", "PairFigures", "SharedDirections", "compare", "pooled"]


@dataclass(frozen=True)
class SharedDirections:
    """How far two subspaces of one space coincide; figures of several modules add up.

    Attributes:
        squared_cosines: Σ cos²θ over the principal angles θ, which is ‖P₁ᵀP₂‖²_F.
        by_chance: what unrelated (uniformly random) subspaces of these sizes share on average, k₁·k₂/d.
        directions: number of principal angles, min(k₁, k₂).
        smallest_angle: in degrees; None without directions.
    """

    squared_cosines: float
    by_chance: float
    directions: int
    smallest_angle: float | None

    def __add__(self, other: "SharedDirections") -> "SharedDirections":
        angles = [angle for angle in (self.smallest_angle, other.smallest_angle) if angle is not None]
        return SharedDirections(
            self.squared_cosines + other.squared_cosines,
            self.by_chance + other.by_chance,
            self.directions + other.directions,
            min(angles, default=None),
        )

    @property
    def overlap(self) -> float | None:
        """Mean cos²θ: 0 for orthogonal spaces, 1 where one holds the other."""
        return self.squared_cosines / self.directions if self.directions else None

    @property
    def chance(self) -> float | None:
        """The overlap of unrelated spaces."""
        return self.by_chance / self.directions if self.directions else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"overlap": self.overlap, "chance": self.chance, "smallest_angle_degrees": self.smallest_angle}


@dataclass(frozen=True)
class Collision:
    """Two updates in the modules that both touch; sums, so that modules add up to layers and adapters.

    Attributes:
        inner: ⟨ΔW₁, ΔW₂⟩ = tr(ΔW₁ᵀΔW₂).
        squares: ‖ΔW₁‖²_F and ‖ΔW₂‖²_F.
        left: spaces of outputs.
        right: spaces of inputs.
        signs: None where entries were not compared.
    """

    inner: float
    squares: tuple[float, float]
    left: SharedDirections
    right: SharedDirections
    signs: SignCounts | None

    def __add__(self, other: "Collision") -> "Collision":
        return Collision(
            self.inner + other.inner,
            (self.squares[0] + other.squares[0], self.squares[1] + other.squares[1]),
            self.left + other.left,
            self.right + other.right,
            None if self.signs is None or other.signs is None else self.signs + other.signs,
        )

    @property
    def cosine(self) -> float | None:
        """cos(ΔW₁, ΔW₂); None where one of them is 0."""
        scale = math.sqrt(self.squares[0]) * math.sqrt(self.squares[1])
        return max(-1.0, min(1.0, self.inner / scale)) if scale > 0 else None

    @property
    def overlap(self) -> float | None:
        """Mean of the output and input overlaps: what collisions are ordered by."""
        if self.left.overlap is None or self.right.overlap is None:
            return None
        return (self.left.overlap + self.right.overlap) / 2

    @property
    def conflict(self) -> float | None:
        """Weighted share of opposite signs; None where entries were not compared."""
        return None if self.signs is None else self.signs.weighted_share

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "cosine": self.cosine,
            "outputs": self.left.to_dict(),
            "inputs": self.right.to_dict(),
            "sign_conflict": None if self.signs is None else self.signs.share,
            "sign_conflict_weighted": self.conflict,
            "entries_both_move": None if self.signs is None else self.signs.both,
        }


@dataclass(frozen=True)
class PairFigures:
    """Two adapters.

    Attributes:
        first: name of one.
        second: name of the other.
        modules: shared module → collision, in natural order.
        shared_energy: share of each adapter's ‖ΔW‖²_F that lies in the shared modules.
    """

    first: str
    second: str
    modules: Mapping[str, Collision]
    shared_energy: tuple[float, float]

    @property
    def total(self) -> Collision | None:
        """All shared modules together; None where there are none."""
        return pooled(self.modules.values())

    def by_layer(self) -> dict[str, Collision]:
        """Layer name → its modules together."""
        found: dict[str, Collision] = {}
        for module, collision in self.modules.items():
            layer = layer_of(module)
            found[layer] = found[layer] + collision if layer in found else collision
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "shared_modules": len(self.modules),
            "shared_energy": list(self.shared_energy),
            "total": None if self.total is None else self.total.to_dict(),
            "layers": {layer: collision.to_dict() for layer, collision in self.by_layer().items()},
            "modules": {module: collision.to_dict() for module, collision in self.modules.items()},
        }


def compare(first: ThinSVD, second: ThinSVD, signs: SignCounts | None = None) -> Collision:
    """Compare two updates of one module without forming either.

    Args:
        first: ΔW₁ = P₁ S₁ Q₁ᵀ.
        second: ΔW₂ = P₂ S₂ Q₂ᵀ, of the same shape.
        signs: of their entries, where compared.
    """
    left, right = first.left.T @ second.left, first.right.T @ second.right
    inner = float(first.values @ (left * right) @ second.values)
    squares = (float(first.values.square().sum()), float(second.values.square().sum()))
    return Collision(
        inner, squares, _shared(first.left, second.left, left), _shared(first.right, second.right, right), signs
    )


def pooled(collisions: Iterable[Collision]) -> Collision | None:
    """The sum of several modules' figures, or None for none."""
    total: Collision | None = None
    for collision in collisions:
        total = collision if total is None else total + collision
    return total


def _shared(first: Tensor, second: Tensor, cosines: Tensor) -> SharedDirections:
    directions = min(cosines.shape)
    if directions == 0:
        return SharedDirections(0.0, 0.0, 0, None)
    chance = cosines.shape[0] * cosines.shape[1] / first.shape[0]
    return SharedDirections(float(cosines.square().sum()), chance, directions, _smallest_angle(first, second, cosines))


def _smallest_angle(first: Tensor, second: Tensor, cosines: Tensor) -> float:
    """In degrees; from the sine where the cosine has lost its digits (Björck and Golub 1973)."""
    vectors, values, covectors = torch.linalg.svd(cosines, full_matrices=False)
    cosine = float(values[0].clamp(max=1.0))
    if cosine * cosine < 0.5:
        return math.degrees(math.acos(cosine))
    one, other = first @ vectors[:, 0], second @ covectors[0]
    sine = float((other - one * (one @ other)).norm().clamp(max=1.0))
    return math.degrees(math.asin(sine))
