"""One path from the skills alone to the safety adapter itself, on which strength and μ move together.

    M(θ) = M_U + (1 - t) s V h_μ(Λ) Vᵀ F_b D + t (f M_S - M_U)        D = M_S (add), or M_S - M_U (interpolate)

First (t = 0) u grows from 0 to where the merge is as far from the skilled model as the safety adapter itself: further
out a model may break, and would cost more than giving up the skills. With ``interpolate`` μ = 10^(2 - 4.5u) falls and
s is 1, for μ alone reaches M_S; with ``add`` the factor s = 1.5 √u grows while μ = 10^(1 - 2.5u) falls. Then t goes
from 0 to 1, in a straight line to f M_S; f is 1 unless more refuses more, on prompts that are not tested on. So the
path has both ends on every model: at θ = 0 the merge is the skills', at θ = 1 it is the safety adapter (with
``aligned_base`` the base), with at least its own refusals. On the first part θ is measured in the root of the benign
divergence, which makes steps of about equal size whatever the model (design, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ..fim_calculator import CoreModel, divergences
from .flow import SSTMerge
from .merge_fishers import Cores
from .region import merged_cores

__all__ = ["POINTS", "PathPoint", "change_at", "measured_divergences", "safety_alone", "safety_path"]

_HANDOVER, _STEPS, _LINE = 0.8, 16, (1.0, 0.75, 0.5, 0.25)
_STRONGEST = 1.5
"""Largest factor of an added patch."""
_KNOTS = tuple(i / 8 for i in range(9))

POINTS = _STEPS + 1 + len(_LINE)
"""Of the path."""


@dataclass(frozen=True)
class PathPoint:
    """A place on the path.

    Attributes:
        theta: θ.
        mu: μ of the soft filter.
        strength: s, factor of the filtered patch.
        share: t, how far on the straight line to the safety adapter.
        end: f, factor of the safety adapter at the end of that line.
    """

    theta: float
    mu: float
    strength: float
    share: float = 0.0
    end: float = 1.0


def safety_path(merge: SSTMerge, attached: CoreModel, end: float = 1.0) -> list[PathPoint]:
    """Where a merge's path is tested; harmful prompts have no part in it.

    Args:
        merge: with a soft filter and held-out benign prompts.
        attached: its model, with hooks in its spaces.
        end: f.

    Returns:
        Points from θ = 1 to θ = 0.
    """
    added = merge.options.combine == "add" and not merge.options.aligned_base
    curve = [_on_curve(u, added) for u in _KNOTS[1:]]
    changes = [change_at(merge, point) for point in (*curve, safety_alone(1.0))]
    *roots, whole = (sqrt(max(0.0, of)) for of in measured_divergences(merge, attached, changes))
    ends = _places(roots, whole)
    last = _on_curve(ends[-1], added)
    line = [PathPoint(round(_HANDOVER + (1 - _HANDOVER) * t, 9), last.mu, last.strength, t, end) for t in _LINE]
    first = [_on_curve(u, added, round(_HANDOVER * i / _STEPS, 9)) for i, u in enumerate(ends)]
    return [*line, *reversed(first)]


def safety_alone(end: float) -> PathPoint:
    """The end of the line: no skill, the safety adapter f times."""
    return PathPoint(1.0, 1.0, 1.0, 1.0, end)


def change_at(merge: SSTMerge, point: PathPoint) -> Cores:
    """M(θ) - M_U per module.

    Args:
        merge: with a soft filter.
        point: of the path.

    Returns:
        The change; at θ = 0 it is zero.
    """
    towards = {m: point.end * core - merge.utility[m] for m, core in merge.patches.safety.items()}
    if point.share == 1.0:
        return towards
    filtered = merge.change(mu=point.mu)
    return {m: (1.0 - point.share) * point.strength * core + point.share * towards[m] for m, core in filtered.items()}


def measured_divergences(
    merge: SSTMerge, attached: CoreModel, changes: Sequence[Cores], skilled: Cores | None = None
) -> list[float]:
    """KL(skilled ‖ merged) per held-out benign answer token, in nats, of every change; M_U is the skilled model."""
    merged = [merged_cores(merge.utility, change) for change in changes]
    return divergences(attached, merged, merge.utility if skilled is None else skilled, merge.judged_benign)


def _on_curve(u: float, added: bool, theta: float = 0.0) -> PathPoint:
    if added:
        return PathPoint(theta, 10.0 ** (1.0 - 2.5 * u), _STRONGEST * sqrt(u))
    return PathPoint(theta, 10.0 ** (2.0 - 4.5 * u), 1.0 if u else 0.0)


def _places(roots: Sequence[float], whole: float) -> list[float]:
    """U at equal steps of the root of the divergence, from 0 to where it is ``whole``, or to 1 where it never is."""
    known = np.maximum.accumulate([0.0, *roots])
    wanted = np.linspace(0.0, min(whole, float(known[-1])), _STEPS + 1)
    return [0.0, *np.interp(wanted[1:], known, _KNOTS).tolist()]
