"""How the strength of a method is swept, as the method's own file declares it, and the ranges that several share.

Every sweep has the same number of strengths, spread over the useful range of its own method, so that no method is
tuned more finely than another; which strength is used is decided on dev prompts. A method with a knob for safety is
swept over that; one without is swept over the weight of the safety adapter, which leaves the skill as it is and so is
kinder to the method than λ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = [
    "AVERAGES",
    "HARM_WEIGHTS",
    "LESS",
    "LESS_OF_AVERAGES",
    "SAFETY_WEIGHT",
    "SHARES",
    "SUMS",
    "TRIMMED",
    "MethodSweep",
    "TwoStageSweep",
]

SAFETY_WEIGHT = "safety weight"
"""The knob of methods that have none for safety alone: the weight of the safety adapters."""


@dataclass(frozen=True)
class MethodSweep:
    """One form of a method, and the strengths that an experiment tries.

    Attributes:
        label: as printed; a form has the same label on both bases.
        values: of the knob, from weak to strong safety.
        options: settings beside the knob.
        knob: the option that is swept, or :data:`SAFETY_WEIGHT`; the method's own knob where none is given.
        prepare_once: whether the method's preparation does not read the knob, so that one serves the whole sweep.
        base: ``unaligned``: skills and a safety adapter are merged into an unaligned base; ``aligned``: skills alone
            are merged into an aligned base, and must not undo its alignment.
        on_request: whether an experiment takes it only where its label or its method is asked for; the others are what
            "every method" means.
        method: registered name, filled in by :func:`~sst_merge.methods.merge_method`.
    """

    label: str
    values: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    knob: str = ""
    prepare_once: bool = False
    base: Literal["unaligned", "aligned"] = "unaligned"
    on_request: bool = False
    method: str = ""

    def thinned(self, count: int | None) -> "MethodSweep":
        """The same with fewer strengths, evenly spread, both ends kept; None keeps all."""
        return replace(self, values=_spread(self.values, count))

    @property
    def middle(self) -> float:
        """The value in the middle of the sweep."""
        return self.values[len(self.values) // 2]


@dataclass(frozen=True)
class TwoStageSweep:
    """One form of a method that merges many experts in two stages: strength of the skills, then safety on top.

    Attributes:
        label: as printed.
        strengths: λ of the skills alone, chosen by dev retention.
        options: other settings.
        shares: how much safety, from weak to strong: for ``added`` the safety update's own factor, for ``averaged`` its
            share of the average, for ``mu`` μ of SST-Merge's filter.
        safety: how safety enters.
        method: registered name, filled in by :func:`~sst_merge.methods.merge_method`.
    """

    label: str
    strengths: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0, 1.25)
    safety: Literal["added", "averaged", "mu"] = "added"
    method: str = ""

    def thinned(self, count: int | None) -> "TwoStageSweep":
        """The same with fewer strengths and shares, evenly spread, both ends kept; None keeps all."""
        return replace(self, strengths=_spread(self.strengths, count), shares=_spread(self.shares, count))

    @classmethod
    def of_sum(cls, label: str, options: Mapping[str, Any] | None = None) -> "TwoStageSweep":
        """Of a sum: the more experts, the less of each, and the safety update on top."""
        return cls(label, (0.2, 0.3, 0.45, 0.7, 1.0), options or {})

    @classmethod
    def of_average(cls, label: str, options: Mapping[str, Any] | None = None) -> "TwoStageSweep":
        """Of an average, which falls with the number of experts by itself, and a share of it for safety."""
        return cls(label, (0.7, 1.0, 1.5, 2.2, 3.0), options or {}, (0.2, 0.4, 0.55, 0.7, 0.85), "averaged")

    def safety_weight(self, share: float, strength: float, experts: int) -> float:
        """Weight of the safety adapter beside skills of weight 1, for one of :attr:`shares` and a strength λ."""
        return share / strength if self.safety == "added" else experts * share / (1 - share)


def _spread(values: tuple[float, ...], count: int | None) -> tuple[float, ...]:
    if count is None or count >= len(values):
        return values
    return tuple(values[round(i * (len(values) - 1) / (count - 1))] for i in range(count))


# Weights of the safety adapter (or factors of the safety update) on an unaligned base.
SUMS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
"""In a sum: around its own size."""

TRIMMED = (0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4, 3.2)
"""Where a part of every update is cut away, so that the rest must weigh more."""

AVERAGES = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0)
"""In an average, where a weight w is a share of w / (1 + w) beside one skill."""

SHARES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
"""The safety update's share of an interpolation."""

HARM_WEIGHTS = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 5.0, 15.0)
"""Weight of the refusals' likelihood beside that of the benign answers, where coefficients are learned."""

# Strengths on an aligned base: from the whole of every task to little of it, for what a plain merge can do for safety
# is to merge less.
LESS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Of a sum."""

LESS_OF_AVERAGES = (3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.8, 0.6, 0.4)
"""Of an average, which for three experts is a third of their sum."""
