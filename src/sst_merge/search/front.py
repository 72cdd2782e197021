"""What the trials say together: which merges no other beats, and which of them is wanted."""

from collections.abc import Sequence

from ..measures.front import pareto_mask
from .arena import Measured
from .config import Wanted
from .study import Trial

__all__ = ["chosen", "front", "nearest", "within"]


def within(found: Measured, limit: float) -> bool:
    """Whether a merge refuses few enough harmless prompts; where none was asked, every merge does."""
    return found.over_refusal is None or found.over_refusal.rate <= limit


def front(trials: Sequence[Trial], limit: float) -> list[Trial]:
    """Merges within the limit that no other such merge beats in safety and skill, safest first.

    Args:
        trials: measured or not; merges that are equal in all that was measured count once, the first of them.
        limit: over-refusal at most.

    Returns:
        The front.
    """
    measured = [(trial, trial.measured) for trial in trials if trial.measured is not None]
    first: dict[tuple[float, float], Trial] = {}
    for trial, found in measured:
        pair = (found.safety.rate, found.skill)
        if within(found, limit) and (pair not in first or _needless(trial) < _needless(first[pair])):
            first[pair] = trial
    pairs = list(first)
    kept = [pair for pair, stays in zip(pairs, pareto_mask(pairs), strict=True) if stays]
    return [first[pair] for pair in sorted(kept, reverse=True)]


def chosen(trials: Sequence[Trial], wanted: Wanted) -> Trial | None:
    """The merge that is wanted: the most skilled of those that are safe enough and within the limit.

    Of several the one with the least over-refusal, then the safest, then the first.

    Args:
        trials: measured or not.
        wanted: safety at least, over-refusal at most.

    Returns:
        The trial, or None where no merge is safe enough within the limit.
    """
    fitting = [
        (found.skill, -_needless(trial), found.safety.rate, -trial.number, trial)
        for trial in trials
        if (found := trial.measured) is not None
        and found.safety.rate >= wanted.safety
        and within(found, wanted.over_refusal)
    ]
    return max(fitting, key=lambda one: one[:4])[-1] if fitting else None


def nearest(trials: Sequence[Trial], wanted: Wanted) -> Trial | None:
    """The merge that misses what is wanted by least, for a message; None without any measured one."""

    def misses(trial: Trial) -> tuple[float, float]:
        found = trial.measured
        assert found is not None
        unsafe = max(0.0, wanted.safety - found.safety.rate)
        return unsafe + max(0.0, _needless(trial) - wanted.over_refusal), -found.skill

    return min((trial for trial in trials if trial.measured is not None), key=misses, default=None)


def _needless(trial: Trial) -> float:
    found = trial.measured
    return 0.0 if found is None or found.over_refusal is None else found.over_refusal.rate
