"""Steps that learn from teachers: which lessons each takes, and how far it goes."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .teacher_objective import TeacherObjective

__all__ = ["AdamSteps", "Turns", "size_of"]

_LESSONS = 4
"""Lessons of a step."""

_BETAS = 0.9, 0.99
"""How slowly the mean and the mean square of the gradients forget."""

_TINY = 1e-12
"""What gradients are divided by at least: those of J may be far below the usual 1e-8."""

_WARM_UP = 10
"""Steps over which the learning rate rises, where there are many."""


class AdamSteps:
    """Adam with a rate that rises and then falls to zero, and a floor in what gradients are divided by.

    The cores' bases are arbitrary. Without a floor an entry on which the prompts say next to nothing moves as far as
    any other one, in a direction that is noise; with one that is high, steps are those of plain gradients.

    Args:
        start: cores.
        rate: its highest.
        total: steps until it is zero.
        floor: relative to the root mean square of all entries' gradients.
    """

    def __init__(self, start: Mapping[str, Tensor], rate: float, total: int, floor: float) -> None:
        self.cores = {m: core.detach().clone() for m, core in start.items()}
        self.rate, self.total, self.floor, self.taken = rate, total, floor, 0
        self._mean = {m: torch.zeros_like(core) for m, core in start.items()}
        self._square = {m: torch.zeros_like(core) for m, core in start.items()}

    def take(self, gradient: Mapping[str, Tensor], factor: float) -> None:
        """One step along a gradient times a factor."""
        warm_up = max(1, min(_WARM_UP, self.total // 8))
        scale = min(1.0, (self.taken + 1) / warm_up) * (1.0 - self.taken / self.total)
        self.taken += 1
        for module in self.cores:
            part = factor * gradient[module]
            self._mean[module].lerp_(part, 1 - _BETAS[0])
            self._square[module].lerp_(part.square(), 1 - _BETAS[1])
        # Sums from zero lag behind in the beginning (arXiv:1412.6980, section 3).
        first, second = (1 - beta**self.taken for beta in _BETAS)
        floor = self.floor * size_of(self._square, power=1) / second**0.5
        for module, core in self.cores.items():
            spread = (self._square[module] / second).sqrt() + max(floor, _TINY)
            core.sub_(self.rate * scale / first * self._mean[module] / spread)

    def copied(self) -> dict[str, Tensor]:
        """The cores, which later steps leave alone."""
        return {module: core.detach().clone() for module, core in self.cores.items()}


def size_of(tensors: Mapping[str, Tensor], power: int = 2) -> float:
    """Root of the mean of all entries' powers; 0 of none."""
    if not tensors:
        return 0.0
    sums = [of.double().pow(power).sum() for of in tensors.values()]
    total = torch.stack([one.to(sums[0].device) for one in sums]).sum()
    return float(total / sum(map(torch.numel, tensors.values()))) ** 0.5


class Turns:
    """Which lessons a pass takes, in groups of one step each.

    Args:
        objective: all lessons.
        order: of the random order.
    """

    def __init__(self, objective: TeacherObjective, order: random.Random) -> None:
        self._order = order
        self._all: dict[int, list[int]] = {}
        for index, lesson in enumerate(objective.lessons):
            self._all.setdefault(lesson.teacher, []).append(index)
        self._taken = {t: _taken(objective, t, indices) for t, indices in self._all.items()}
        self._waiting: dict[int, list[int]] = {t: [] for t in self._all}
        self.lessons = sum(self._taken.values())
        self.groups = max(1, round(self.lessons / _LESSONS))

    def one_pass(self) -> list[dict[int, float]]:
        """Index of a lesson → factor of its gradient, for each step; a teacher's lessons lie at even distances.

        The factors make every pass weigh a teacher as J does, whatever share of its lessons it takes.
        """
        placed: list[tuple[float, int, float]] = []
        for teacher, indices in self._all.items():
            count = self._taken[teacher]
            factor = len(indices) / count
            now = [self._next(teacher) for _ in range(count)]
            placed += [((place + self._order.random()) / count, index, factor) for place, index in enumerate(now)]
        ordered, groups = [(index, factor) for _, index, factor in sorted(placed)], self.groups
        return [dict(ordered[len(ordered) * i // groups : len(ordered) * (i + 1) // groups]) for i in range(groups)]

    def _next(self, teacher: int) -> int:
        waiting = self._waiting[teacher]
        if not waiting:
            waiting += self._all[teacher]
            self._order.shuffle(waiting)
        return waiting.pop(0)


def _taken(objective: TeacherObjective, teacher: int, indices: Sequence[int]) -> int:
    """How many of a teacher's lessons one pass takes: as many as hold the prompts that it may."""
    wanted = objective.teachers[teacher].per_pass
    prompts = sum(len(objective.lessons[index].batch) for index in indices)
    return len(indices) if wanted is None else min(len(indices), max(1, round(len(indices) * wanted / prompts)))
