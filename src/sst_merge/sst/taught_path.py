"""A path from the skills alone to the safety adapter itself, through merges that were taught.

    M_U  →  T(1)  →  T(0.1)  →  f M_S        T(μ) = the minimum of J with f M_S as the safe model, ν = 1/μ (`.teachers`)

Straight lines between four merges; f is 1 unless more refuses more (:func:`~.safety_target.path_end`). The path of the
closed form (:mod:`.safety_path`) loses skill wherever safety must be certain; a taught merge refuses as surely and
keeps the skill, so a target costs less along this one (design, section 4). The teachers see no prompt that the target
is tested on: of the harmful ones only those of the Fishers.
"""

from dataclasses import dataclass
from functools import cached_property

from .calibration_split import split_batches
from .flow import SSTMerge
from .merge_fishers import Cores
from .teacher_refine import Taught

__all__ = ["TAUGHT_MU", "TAUGHT_POINTS", "TaughtPath", "TaughtPoint"]

TAUGHT_MU = (1.0, 0.1)
"""μ of the merges that are taught for the path, each from its closed form, with ν = 1/μ."""

_KNOTS = (0.0, 0.5, 0.8, 1.0)
"""θ of the four merges."""

_STEPS = (10, 2, 4)
"""Points of each line; the first goes from no refusals to almost all of the safety adapter's."""

TAUGHT_POINTS = sum(_STEPS) + 1
"""Of the path."""

_SKILLS, _SAFETY = "skills", "safety"


@dataclass(frozen=True)
class TaughtPoint:
    """A place on the path.

    Attributes:
        theta: θ.
        lower: the merge below it: ``skills``, or ``taught, μ = …``.
        upper: the one above it; ``safety`` at the end.
        share: how far from the lower to the upper one.
        end: f, factor of the safety adapter that teaches, and at the end of the path.
    """

    theta: float
    lower: str
    upper: str
    share: float
    end: float


class TaughtPath:
    """The four merges, taught when the first of them is asked for (the safety adapter is not), and the points between.

    Args:
        merge: with ``refine: teachers`` and prompts for them.
        end: f.
    """

    def __init__(self, merge: SSTMerge, end: float = 1.0) -> None:
        self._merge, self._end = merge, end
        self._names = [_SKILLS, *(f"taught, μ = {mu:g}" for mu in TAUGHT_MU), _SAFETY]

    @cached_property
    def taught(self) -> dict[str, Taught]:
        """The merges that were taught, by name; the skills too, where several have data of their own."""
        merge, own = self._merge, self._merge.problem.adapter_benign
        # No prompt that the target is tested on: what is looked at chooses the best point. Nor are the benign ones
        # learnt that are held out: divergence on them chooses among the points that pass.
        harm = split_batches(merge.fit_harm, merge.options.calibration_holdout, merge.problem.seed + 1)
        found = {}
        skills = [a for a in merge.problem.adapters if a.role == "utility"]
        if len(skills) > 1 and any(own.get(a.name) for a in skills):
            found[_SKILLS] = merge.taught(merge.utility, 0.0, on_all=False)
        for name, mu in zip(self._names[1:-1], TAUGHT_MU, strict=True):
            start = merge.merged(mu=mu, strength=self._end)
            found[name] = merge.taught(start, 1.0 / mu, harm=harm, strength=self._end, on_all=False)
        return found

    @property
    def skilled(self) -> Cores:
        """The skills' merge, from which benign divergence is measured."""
        return self.taught[_SKILLS].cores if _SKILLS in self.taught else self._merge.utility

    @property
    def points(self) -> list[TaughtPoint]:
        """Where the path is tested, from θ = 1 to θ = 0."""
        found = [TaughtPoint(0.0, _SKILLS, self._names[1], 0.0, self._end)]
        for line, steps in enumerate(_STEPS):
            low, high = _KNOTS[line], _KNOTS[line + 1]
            for step in range(1, steps + 1):
                share = step / steps
                theta = round(low + (high - low) * share, 9)
                found.append(TaughtPoint(theta, self._names[line], self._names[line + 1], share, self._end))
        return found[::-1]

    def change_at(self, point: TaughtPoint) -> Cores:
        """M(θ) - M_U per module.

        Args:
            point: of this path.

        Returns:
            The change; M_U is the closed form's, as everywhere.
        """
        utility, upper = self._merge.utility, self._cores(point.upper)
        if point.share == 1.0:
            return {m: upper[m] - utility[m] for m in utility}
        lower = self._cores(point.lower)
        return {m: (1.0 - point.share) * lower[m] + point.share * upper[m] - utility[m] for m in utility}

    def _cores(self, name: str) -> Cores:
        if name == _SAFETY:
            return {m: self._end * core for m, core in self._merge.patches.safety.items()}
        return self.skilled if name == _SKILLS else self.taught[name].cores
