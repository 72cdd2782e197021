"""From the closed form towards the minimum of J: Adam on the cores, judged by prompts that no step sees.

The closed form minimises the second order of J at the teachers; what its approximation lost, steps on J itself bring
back. The best point on held-out prompts is what comes out, and the start is one of the points: J on them never rises.
Where they decide nothing else afterwards, as many passes over all prompts follow as it took to that point.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING

from torch import Tensor

from .. import processes
from ..core_space import CoreSpace
from ..errors import DataError
from ..fim_calculator import CoreModel
from ..progress import Progress
from ..tracking import record
from .teacher_objective import Teacher, TeacherObjective
from .teacher_steps import AdamSteps, Turns, size_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FLOOR", "PASSES", "RATES", "Taught", "refine_by_teachers"]

PASSES = 4
"""Over the prompts of the steps. None is spared: while the rate is high a look may be worse than the start, and the end
still better."""

_CHECK = 2
"""Passes between two looks at the held-out prompts."""

RATES = (0.02, 0.005, 0.00125)
"""Relative to the root mean square of the cores at the start (where they are zero, of the largest teacher's). Where the
first look is worse than the start, as with few prompts, the next one starts anew."""

FLOOR = 3.0
"""Added to what an entry's gradients are divided by, relative to the root mean square of all entries' gradients."""

_ON_ALL_RATE = 0.5
"""Share of the learning rate at which the passes over all prompts begin."""


@dataclass(frozen=True)
class Taught:
    """The best point, and how it was found.

    Attributes:
        cores: M per module.
        steps: taken.
        rate: the last that was tried, at which the best point was found where it is not the start; relative to the
            size of the cores there.
        passes: over the prompts of the steps, at all rates that were tried.
        best_pass: after how many of them at that rate the best point was found; 0 is the start.
        on_all: passes from there on over all prompts, the held-out ones among them.
        seen: prompts that went through the model: forward and backward in steps, forward alone on held-out prompts.
        kept_bytes: memory of what the teachers said.
        teachers: name, weight in J and numbers of prompts of every teacher, and its divergence on held-out prompts
            before and after (nats per answer token).
        before: J of the start on held-out prompts.
        looks: J at every look.
        after: J of the best point, before the passes over all prompts, after which nobody can say.
    """

    cores: dict[str, Tensor]
    steps: int
    rate: float
    passes: int
    best_pass: int
    on_all: int
    seen: int
    kept_bytes: int
    teachers: tuple[dict[str, object], ...]
    before: float
    looks: tuple[float, ...]
    after: float

    def to_dict(self) -> dict[str, object]:
        """Plain values for a report."""
        return {
            "steps": self.steps,
            "learning_rate": self.rate,
            "passes": self.passes,
            "best_pass": self.best_pass,
            "passes_over_all": self.on_all,
            "prompts_seen": self.seen,
            "kept_bytes": self.kept_bytes,
            "held_out": {"before": self.before, "looks": list(self.looks), "after": self.after},
            "teachers": list(self.teachers),
        }


def refine_by_teachers(
    model: "PreTrainedModel",
    spaces: Mapping[str, CoreSpace],
    teachers: Sequence[Teacher],
    start: Mapping[str, Tensor],
    *,
    seed: int = 0,
    passes: int = PASSES,
    on_all: float = 0.0,
    rates: Sequence[float] = RATES,
    floor: float = FLOOR,
    objective: type[TeacherObjective] = TeacherObjective,
    progress: Progress | None = None,
) -> Taught:
    """Steps on J over the ``fit`` prompts, from a start to the best point on the ``held`` prompts.

    Adam (arXiv:1412.6980) at a rate that falls linearly to zero; a step takes a few lessons, spread over the teachers
    as evenly as their numbers of prompts allow. Where the first look is worse than the start, all begins anew at a
    quarter of the rate, twice at most.

    Args:
        model: the base model.
        spaces: core space per module.
        teachers: at least one with prompts in each part.
        start: M per module, the closed form.
        seed: of the order of lessons.
        passes: over the ``fit`` prompts at one rate, with a look at the ``held`` ones after every second.
        on_all: passes over all prompts, from the best point and at half the rate, for each that was taken to it.
        rates: of Adam, relative to the size of the start, from the first that is tried to the last.
        floor: added to what Adam divides gradients by, relative to the root mean square of all entries' gradients.
        objective: J; another class for controls.
        progress: called with (stage, done, total).

    Returns:
        The best point, or what became of it on all prompts; the start where no step found a better one.

    Raises:
        DataError: no prompts in one part, or J of the start is not a number.
    """
    told = progress or (lambda *_: None)
    size = size_of(start) or max(size_of(teacher.cores or {}) for teacher in teachers)
    with CoreModel(model, spaces) as attached:
        fit, held = objective(attached, teachers, "fit"), objective(attached, teachers, "held")
        before = held.divergences(start)
        first = held.total(before)
        if not first < inf:
            raise DataError(
                f"the merge before its steps lies at J = {first} from its teachers on {held.prompts} held-out prompts; "
                "look for overflow (a float16 model?)"
            )
        best = _Look(dict(start), before, first, 0)
        looks: list[float] = []
        taken = gone = 0
        for place, rate in enumerate(rates):
            order = random.Random(f"sst-merge teachers/{seed}")
            turns = Turns(fit, order)
            steps = AdamSteps(start, rate * size, passes * turns.groups, floor)
            anew = False
            stage = "learning, smaller steps" if place else "learning from teachers"
            for done in range(1, passes + 1):
                _one_pass(fit, steps, turns, partial(told, stage))
                gone += 1
                if done % _CHECK == 0:
                    now = held.divergences(steps.cores)
                    looks.append(held.total(now))
                    record("learning from teachers", gone, {"held_out": looks[-1]})
                    if looks[-1] < best.total:
                        best = _Look(steps.copied(), now, looks[-1], done)
                    anew = done == _CHECK and not best.done and place + 1 < len(rates)
                if anew:
                    break
            taken += steps.taken
            if not anew:
                break
        cores = best.cores
        seen, kept_bytes = fit.seen + held.seen, fit.kept_bytes + held.kept_bytes
        passes_on_all = ceil(on_all * best.done)
        if passes_on_all:
            every = objective(attached, [replace(of, fit=(*of.fit, *of.held)) for of in teachers], "fit")
            every.remember(fit, held)
            turns = Turns(every, order)
            steps = AdamSteps(cores, _ON_ALL_RATE * rate * size, passes_on_all * turns.groups, floor)
            for _ in range(passes_on_all):
                _one_pass(every, steps, turns, partial(told, "learning, all prompts"))
            cores = steps.copied()
            taken, seen, kept_bytes = taken + steps.taken, seen + every.seen, max(kept_bytes, every.kept_bytes)
    return Taught(
        cores,
        taken,
        rate,
        gone,
        best.done,
        passes_on_all,
        seen,
        int(*processes.sums("memory of teachers", [kept_bytes])),
        tuple(map(_figures, teachers, before, best.divergences)),
        first,
        tuple(looks),
        best.total,
    )


@dataclass(frozen=True)
class _Look:
    """A point, its divergence from every teacher, their sum J, and after how many passes it was found."""

    cores: dict[str, Tensor]
    divergences: list[float]
    total: float
    done: int


def _one_pass(objective: TeacherObjective, steps: AdamSteps, turns: Turns, told: Callable[[int, int], None]) -> None:
    for group in turns.one_pass():
        steps.take(objective.gradient(steps.cores, group), turns.lessons / len(group))
        told(steps.taken, steps.total)


def _figures(teacher: Teacher, before: float, after: float) -> dict[str, object]:
    return {
        "teacher": teacher.name,
        "weight": teacher.weight,
        "prompts": sum(map(len, teacher.fit)),
        "held_out_prompts": sum(map(len, teacher.held)),
        "before": before,
        "after": after,
    }
