"""How far a merge lies from its teachers, each on prompts of its own, and the exact gradient of that.

    D_T(M; X) = E_{(x, y) ∈ X} 1/|y| Σ_t KL( p(· | x, y_<t; W₀ + T) ‖ p(· | x, y_<t; W₀ + M) )
    J(M) = Σ_i w_i D_{M_i}(M; X_i) + ν D_{M_S}(M; X_S) + γ D_0(M; X_0)

The second order of every term is ½ (M − T)ᵀ F_T (M − T): the closed form minimises those (design, section 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import processes
from ..data_loader.batch import Batch, joined
from ..errors import DataError
from ..fim_calculator import CoreModel, TokenBudget, answer_log_probabilities
from .lessons import LessonGroup, LessonPart, lessons_of
from .top_distribution import TOP, TopDistribution

__all__ = ["Teacher", "TeacherObjective"]

_PASS = 768
"""Padded tokens up to which several lessons go through the model together: more of them multiply no faster."""

_KEPT_BYTES = 1 << 29
"""What teachers said is kept up to this size; beyond it they are asked again."""


@dataclass(frozen=True)
class Teacher:
    """A model that knows what to say on some prompts.

    Attributes:
        name: of the adapter, or what else it is.
        cores: its update per module; None is the base itself.
        weight: of its divergence in J, ≥ 0.
        fit: prompts with answers for the steps.
        held: prompts that no step sees.
        per_pass: how many prompts of the steps one pass takes, other ones in every pass until all have had their turn;
            all by default.
    """

    name: str
    cores: Mapping[str, Tensor] | None
    weight: float
    fit: tuple[Batch, ...]
    held: tuple[Batch, ...]
    per_pass: int | None = None


class TeacherObjective:
    """J over one part of the teachers' prompts; every teacher is asked once about each, when it first matters.

    Args:
        attached: the base model with hooks in place; its point is changed.
        teachers: who takes part.
        part: ``fit`` or ``held``.
        top: k of the kept distributions.

    Raises:
        DataError: no teacher has prompts in this part.
    """

    def __init__(self, attached: CoreModel, teachers: Sequence[Teacher], part: str, *, top: int = TOP) -> None:
        self.attached, self.top = attached, top
        self.teachers = tuple(teachers)
        parts: list[tuple[Batch, ...]] = [getattr(teacher, part) for teacher in teachers]
        self.lessons = tuple(lesson for index, batches in enumerate(parts) for lesson in lessons_of(index, batches))
        if not self.lessons:
            raise DataError(f"no teacher has {part} prompts; found teachers {[t.name for t in teachers]}")
        self._kept: dict[int, TopDistribution] = {}
        self._budget = TokenBudget(halves=not attached.shared_layers)
        self.prompts = sum(len(lesson.batch) for lesson in self.lessons)
        self.seen = 0

    @property
    def kept_bytes(self) -> int:
        """Memory of what teachers said."""
        return sum(kept.nbytes for kept in self._kept.values())

    def remember(self, fit: "TeacherObjective", held: "TeacherObjective") -> None:
        """Take over what the same teachers said, where this objective is over the prompts of both parts.

        Args:
            fit: of one part; it forgets.
            held: of the other; so does it.
        """
        parts = (fit, held)
        # Per teacher the lessons of the steps come first.
        places = sorted((of.teacher, part, i) for part in (0, 1) for i, of in enumerate(parts[part].lessons))
        for index, (_, part, i) in enumerate(places):
            said = parts[part]._kept.pop(i, None)
            if said is not None and self.kept_bytes + said.nbytes <= _KEPT_BYTES:
                self._kept[index] = said

    def divergences(self, cores: Mapping[str, Tensor]) -> list[float]:
        """D_T(M; X) of every teacher, nats per answer token; forward passes only.

        Args:
            cores: M per module.

        Returns:
            One figure a teacher, in their order; 0 for one without prompts in this part.
        """
        found = [0.0] * len(self.teachers)
        self.seen += self.prompts
        with torch.no_grad():
            for group in self._passes(range(len(self.lessons))):
                for done, divergences in self._budget.each(group, lambda of: self._divergences(of, cores).tolist()):
                    for part, divergence in zip(done.parts, divergences, strict=True):
                        lesson = self.lessons[part.index]
                        found[lesson.teacher] += lesson.share * divergence
        return processes.sums("divergences from teachers", found)

    def total(self, divergences: Sequence[float]) -> float:
        """J of the teachers' divergences."""
        return sum(t.weight * value for t, value in zip(self.teachers, divergences, strict=True))

    def gradient(self, cores: Mapping[str, Tensor], chosen: Mapping[int, float] | None = None) -> dict[str, Tensor]:
        """∇J(M), or the part of it that some lessons contribute.

        Args:
            cores: M per module.
            chosen: index of a lesson → factor of its part; all with factor 1 by default. With factors of 1 the sum over
                a partition is the whole gradient.

        Returns:
            Gradient per module, in the cores' type.
        """
        variables = {m: core.detach().clone().requires_grad_(True) for m, core in cores.items()}
        total = {m: torch.zeros_like(core) for m, core in cores.items()}
        chosen = dict.fromkeys(range(len(self.lessons)), 1.0) if chosen is None else chosen
        self.seen += sum(len(self.lessons[index].batch) for index in chosen)

        def differentiated(group: LessonGroup) -> tuple[Tensor | None, ...]:
            divergences = self._divergences(group, variables)
            weights = [chosen[part.index] * self._weight(part.index) for part in group.parts]
            loss = divergences @ divergences.new_tensor(weights)
            return torch.autograd.grad(loss, list(variables.values()), allow_unused=True)

        for group in self._passes(list(chosen)):
            for _, gradients in self._budget.each(group, differentiated):
                for m, gradient in zip(variables, gradients, strict=True):
                    if gradient is not None:
                        total[m] += gradient
        processes.add_up("gradient of lessons", list(total.values()))
        return total

    def _weight(self, index: int) -> float:
        """Of a lesson in J."""
        lesson = self.lessons[index]
        return self.teachers[lesson.teacher].weight * lesson.share

    def _passes(self, chosen: Sequence[int]) -> list[LessonGroup]:
        """Lessons that go through the model together in this process, where that spares work."""
        mine = [index for place, index in enumerate(chosen) if processes.mine(place)]
        found: list[list[int]] = []
        # Of like width beside each other, so that little is padded.
        for index in sorted(mine, key=lambda i: (self.lessons[i].batch.input_ids.shape[1], i)):
            if found and self._spares(found[-1], index):
                found[-1].append(index)
            else:
                found.append([index])
        return [LessonGroup(tuple(LessonPart.whole(i, self.lessons[i].batch) for i in group)) for group in found]

    def _spares(self, group: Sequence[int], index: int) -> bool:
        """Whether one more lesson in a pass costs less than a pass of its own."""
        one, before = self.lessons[index].batch, [self.lessons[i].batch for i in group]
        if (sum(map(len, before)) + len(one)) * one.input_ids.shape[1] > _PASS:
            return False
        cost = self.attached.cost
        return cost(joined([*before, one])) < cost(joined(before)) + cost(one)

    def _divergences(self, group: LessonGroup, cores: Mapping[str, Tensor]) -> Tensor:
        """Per part of a lesson the sum over its answer tokens, each with its share; one pass for all of them."""
        said = [self.said(part.index) for part in group.parts]
        self.attached.set_point(cores)
        together = answer_log_probabilities(self.attached, group.batch)
        found = torch.split(together, [len(part.shares) for part in group.parts])
        by_token = [
            of.at(part.positions).divergence(pupil) for of, part, pupil in zip(said, group.parts, found, strict=True)
        ]
        return torch.stack([of @ part.shares.to(of) for of, part in zip(by_token, group.parts, strict=True)])

    def said(self, index: int) -> TopDistribution:
        """What the teacher of a lesson says at its answers."""
        if index in self._kept:
            return self._kept[index]
        lesson = self.lessons[index]
        self.attached.set_point(self.teachers[lesson.teacher].cores)

        def asked(batch: Batch) -> TopDistribution:
            return TopDistribution.of(answer_log_probabilities(self.attached, batch), self.top)

        with torch.no_grad():
            found = TopDistribution.joined([of for _, of in self._budget.each(lesson.batch, asked)])
        if self.kept_bytes + found.nbytes <= _KEPT_BYTES:
            self._kept[index] = found
        return found
