"""From the closed form towards the minimum of J: Adam on the cores, judged by prompts that no step sees.

The closed form minimises the second order of J at the teachers; what its approximation lost, steps on J itself bring
back. The best point on held-out prompts is what comes out, and the start is one of the points: J on them never rises.
Where they decide nothing else afterwards, as many passes over all prompts follow as it took to that point.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import processes
from ..core_space import CoreSpace
from ..errors import DataError
from ..fim_calculator import CoreModel
from ..progress import Progress
from ..tracking import record
from .teacher_objective import Teacher, TeacherObjective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PASSES", "Taught", "refine_by_teachers"]

PASSES = 4
"""Over the prompts of the steps. None is spared: while the rate is high a look may be worse than the start, and the end
still better."""

_CHECK = 2
"""Passes between two looks at the held-out prompts."""

_LEARNING_RATE = 0.02
"""Relative to the root mean square of the cores at the start."""

_LESSONS = 4
"""Lessons of a step."""

_ON_ALL_RATE = 0.5
"""Share of the learning rate at which the passes over all prompts begin."""

_WARM_UP = 10
"""Steps over which the learning rate rises, where there are many."""


@dataclass(frozen=True)
class Taught:
    """The best point, and how it was found.

    Attributes:
        cores: M per module.
        steps: taken.
        passes: over the prompts of the steps.
        best_pass: after how many of them the best point was found; 0 is the start.
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
    objective: type[TeacherObjective] = TeacherObjective,
    progress: Progress | None = None,
) -> Taught:
    """Steps on J over the ``fit`` prompts, from a start to the best point on the ``held`` prompts.

    Adam (arXiv:1412.6980) at a rate that falls linearly to zero; a step takes a few lessons, spread over the teachers
    as evenly as their numbers of prompts allow.

    Args:
        model: the base model.
        spaces: core space per module.
        teachers: at least one with prompts in each part.
        start: M per module, the closed form.
        seed: of the order of lessons.
        passes: over the ``fit`` prompts, with a look at the ``held`` ones after every second.
        on_all: passes over all prompts, from the best point and at half the rate, for each that was taken to it.
        objective: J; another class for controls.
        progress: called with (stage, done, total).

    Returns:
        The best point, or what became of it on all prompts; the start where no step found a better one.

    Raises:
        DataError: no prompts in one part, or J of the start is not a number.
    """
    order = random.Random(f"sst-merge teachers/{seed}")
    with CoreModel(model, spaces) as attached:
        fit, held = objective(attached, teachers, "fit"), objective(attached, teachers, "held")
        before = held.divergences(start)
        first = held.total(before)
        if not first < inf:
            raise DataError(
                f"the merge before its steps lies at J = {first} from its teachers on {held.prompts} held-out prompts; "
                "look for overflow (a float16 model?)"
            )
        steps = _Adam(start, _step_size(start, teachers), passes * _groups(fit))
        best, best_pass, found = first, 0, (dict(start), before)
        looks: list[float] = []
        for done in range(1, passes + 1):
            _one_pass(fit, steps, order)
            if done % _CHECK == 0:
                now = held.divergences(steps.cores)
                looks.append(held.total(now))
                record("learning from teachers", done, {"held_out": looks[-1]})
                if looks[-1] < best:
                    best, best_pass, found = looks[-1], done, (steps.copied(), now)
            if progress is not None:
                progress("learning from teachers", done, passes)
        cores, after = found
        taken, seen, kept_bytes = steps.taken, fit.seen + held.seen, fit.kept_bytes + held.kept_bytes
        del fit, held
        passes_on_all = ceil(on_all * best_pass)
        if passes_on_all:
            every = objective(attached, [replace(of, fit=(*of.fit, *of.held)) for of in teachers], "fit")
            rate = _ON_ALL_RATE * _step_size(start, teachers)
            steps = _Adam(cores, rate, passes_on_all * _groups(every))
            for done in range(1, passes_on_all + 1):
                _one_pass(every, steps, order)
                if progress is not None:
                    progress("learning from teachers on all prompts", done, passes_on_all)
            cores = steps.copied()
            taken, seen, kept_bytes = taken + steps.taken, seen + every.seen, max(kept_bytes, every.kept_bytes)
    return Taught(
        cores,
        taken,
        passes,
        best_pass,
        passes_on_all,
        seen,
        int(*processes.sums("memory of teachers", [kept_bytes])),
        tuple(map(_figures, teachers, before, after)),
        first,
        tuple(looks),
        best,
    )


def _one_pass(objective: TeacherObjective, steps: "_Adam", order: random.Random) -> None:
    for group in _in_groups(objective, order):
        steps.take(objective.gradient(steps.cores, group), len(objective.lessons) / len(group))


def _figures(teacher: Teacher, before: float, after: float) -> dict[str, object]:
    return {
        "teacher": teacher.name,
        "weight": teacher.weight,
        "prompts": sum(map(len, teacher.fit)),
        "held_out_prompts": sum(map(len, teacher.held)),
        "before": before,
        "after": after,
    }


class _Adam:
    """Adam with a rate that rises and then falls to zero.

    Args:
        start: cores.
        rate: its highest.
        total: steps until it is zero.
    """

    def __init__(self, start: Mapping[str, Tensor], rate: float, total: int) -> None:
        self.cores = {m: core.detach().clone() for m, core in start.items()}
        self.rate, self.total, self.taken = rate, total, 0
        # Gradients of J may be far below the usual 1e-8.
        self._adam = torch.optim.Adam(list(self.cores.values()), lr=rate, betas=(0.9, 0.99), eps=1e-12)

    def take(self, gradient: Mapping[str, Tensor], factor: float) -> None:
        """One step along a gradient times a factor."""
        for module, core in self.cores.items():
            core.grad = factor * gradient[module]
        warm_up = max(1, min(_WARM_UP, self.total // 8))
        scale = min(1.0, (self.taken + 1) / warm_up) * (1.0 - self.taken / self.total)
        self._adam.param_groups[0]["lr"] = self.rate * scale
        self._adam.step()
        self.taken += 1

    def copied(self) -> dict[str, Tensor]:
        """The cores, which later steps leave alone."""
        return {module: core.detach().clone() for module, core in self.cores.items()}


def _step_size(start: Mapping[str, Tensor], teachers: Sequence[Teacher]) -> float:
    """A share of the cores' size; where they are zero, of the largest teacher's."""
    return _LEARNING_RATE * (_size(start) or max(_size(teacher.cores or {}) for teacher in teachers))


def _size(cores: Mapping[str, Tensor]) -> float:
    """Root mean square of all entries; 0 of none."""
    if not cores:
        return 0.0
    return float(torch.cat([core.flatten().double() for core in cores.values()]).square().mean().sqrt())


def _groups(objective: TeacherObjective) -> int:
    return max(1, round(len(objective.lessons) / _LESSONS))


def _in_groups(objective: TeacherObjective, order: random.Random) -> list[list[int]]:
    """All lessons once, in groups; each teacher's lie in a random order, at even distances over the whole."""
    by_teacher: dict[int, list[int]] = {}
    for index, lesson in enumerate(objective.lessons):
        by_teacher.setdefault(lesson.teacher, []).append(index)
    placed: list[tuple[float, int]] = []
    for indices in by_teacher.values():
        order.shuffle(indices)
        placed += [((place + order.random()) / len(indices), index) for place, index in enumerate(indices)]
    ordered, count = [index for _, index in sorted(placed)], _groups(objective)
    return [ordered[len(ordered) * i // count : len(ordered) * (i + 1) // count] for i in range(count)]
