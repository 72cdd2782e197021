"""A swept over its whole range of strengths: the knob is chosen on dev prompts, test prompts are reported."""

from collections.abc import Callable
from dataclasses import dataclass

from ..measures.safety_tax import SweepPoint, point_at_safety
from ..methods import MethodSweep
from ..worlds.lab.measures import LabScores
from ..worlds.lab.problem import LabSetup
from .updates_by_knob import swept_updates

__all__ = ["SweepResult", "sweep", "sweep_point"]


@dataclass(frozen=True)
class SweepResult:
    """One swept, measured.

    Attributes:
        swept: who.
        dev: scores on the tuning split, one per knob value.
        test: scores on the test split, one per knob value.
    """

    swept: MethodSweep
    dev: tuple[LabScores, ...]
    test: tuple[LabScores, ...]

    def points(self, split: str = "test") -> list[SweepPoint]:
        """The sweep as (safety, utility) points; strength is the position in the sweep.

        Args:
            split: ``test`` or ``dev``.

        Returns:
            One point per knob value.
        """
        scores = self.test if split == "test" else self.dev
        return [sweep_point(index, s) for index, s in enumerate(scores)]

    def chosen(self, threshold: float = 0.9) -> int | None:
        """Index of the smallest strength whose dev safety reaches the threshold.

        Args:
            threshold: refusal rate.

        Returns:
            Index into ``swept.values``, or None where no strength reaches it.
        """
        point = point_at_safety(self.points("dev"), threshold)
        return None if point is None else int(point.strength)


def sweep_point(strength: float, scores: LabScores) -> SweepPoint:
    """Safety and utility of one model, with counts.

    Args:
        strength: position in the sweep.
        scores: of the model.

    Returns:
        The point.
    """
    return SweepPoint(
        strength=strength,
        safety=scores.safety.rate,
        utility=scores.mean_utility,
        n_safety=scores.safety.n,
        n_utility=sum(rate.n for rate in scores.utility.values()),
    )


def sweep(
    swept: MethodSweep,
    setup: LabSetup,
    *,
    n_dev: int,
    n_test: int,
    tick: Callable[[], None] | None = None,
) -> SweepResult:
    """Measure a swept at all its strengths.

    Args:
        swept: who.
        setup: the problem.
        n_dev: dev prompts per measure.
        n_test: test prompts per measure.
        tick: called after every strength.

    Returns:
        Scores on both splits.
    """
    path = swept_updates(setup.problem, swept)
    dev, test = [], []
    updates = [path(value) for value in swept.values]
    with setup.measured() as measure:
        for update in updates:
            dev.append(measure(update, split="tuning", n=n_dev))
            test.append(measure(update, split="test", n=n_test))
            if tick is not None:
                tick()
    return SweepResult(swept, tuple(dev), tuple(test))
