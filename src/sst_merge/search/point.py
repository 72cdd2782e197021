"""One merge that a search tries, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Point"]


@dataclass(frozen=True)
class Point:
    """A method with its settings.

    Attributes:
        label: the form of the method, as tables print it.
        method: registered name.
        options: of the method, plain values.
        safety_weight: factor on the weights of all safety adapters.
        rank: largest rank of the output; None for the exact result.
        prepare_from: option that the method's preparation does not read, so that one serves all its values; None where
            it may read every one.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    safety_weight: float = 1.0
    rank: int | None = None
    prepare_from: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values that decide the merge; two points that have the same are the same merge."""
        return {
            "method": self.method,
            "options": dict(self.options),
            "safety_weight": self.safety_weight,
            "rank": self.rank,
            "prepare_from": self.prepare_from,
        }

    @property
    def settings(self) -> str:
        """What was chosen, for a narrow column: rounded, while files have every digit."""
        shown = _flat(self.options)
        if self.safety_weight != 1.0:
            shown["safety weight"] = self.safety_weight
        if self.rank is not None:
            shown["rank"] = self.rank
        return ", ".join(f"{name} {_short(value)}" for name, value in shown.items()) or "defaults"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
