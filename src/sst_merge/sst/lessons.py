"""Prompts of the teachers in small lots, and which of them go through the model together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..data_loader.batch import IGNORED, Batch, joined
from ..data_loader.devices import in_float64

__all__ = ["LESSON", "Lesson", "LessonGroup", "LessonPart", "lessons_of"]

LESSON = 8
"""Prompts of one teacher that count as one, at most."""


@dataclass(frozen=True)
class Lesson:
    """A few prompts of one teacher.

    Attributes:
        teacher: whose, as an index.
        batch: at most :data:`LESSON` prompts.
        share: of all the teacher's prompts here.
    """

    teacher: int
    batch: Batch
    share: float


@dataclass(frozen=True)
class LessonPart:
    """Consecutive prompts of a lesson, or all of them.

    Attributes:
        index: of the lesson.
        batch: the prompts.
        shares: 1 / (prompts of the lesson · |y|) of every answer token, in the order of
            :meth:`~.CoreModel.answers`, (n,).
        first: answer tokens of the lesson before theirs.
    """

    index: int
    batch: Batch
    shares: Tensor
    first: int = 0

    @classmethod
    def whole(cls, index: int, batch: Batch) -> "LessonPart":
        """All prompts of a lesson."""
        counts = (batch.labels[:, 1:] != IGNORED).sum(1)
        return cls(index, batch, (1.0 / (len(batch) * in_float64(counts))).repeat_interleave(counts))

    @property
    def positions(self) -> slice:
        """Of their answer tokens among those of the lesson."""
        return slice(self.first, self.first + len(self.shares))

    def halves(self) -> "list[LessonPart]":
        """Both halves of the prompts."""
        found, before = [], 0
        for batch in self.batch.halves():
            shares = self.shares[before : before + batch.answers]
            found.append(LessonPart(self.index, batch, shares, self.first + before))
            before += batch.answers
        return found


@dataclass(frozen=True)
class LessonGroup:
    """Lessons, or parts of them, that go through the model together."""

    parts: tuple[LessonPart, ...]

    def __len__(self) -> int:
        """Number of prompts."""
        return sum(len(part.batch) for part in self.parts)

    @cached_property
    def batch(self) -> Batch:
        """All prompts as one batch."""
        return joined([part.batch for part in self.parts])

    @property
    def width(self) -> int:
        """Tokens of a prompt, padding included."""
        return max(part.batch.width for part in self.parts)

    def halves(self) -> "list[LessonGroup]":
        """Half of the lessons each; of a single one half of the prompts each."""
        if len(self.parts) == 1:
            return [LessonGroup((half,)) for half in self.parts[0].halves()]
        middle = (len(self.parts) + 1) // 2
        return [LessonGroup(self.parts[:middle]), LessonGroup(self.parts[middle:])]


def lessons_of(teacher: int, batches: Sequence[Batch]) -> list[Lesson]:
    """A teacher's prompts in lots of :data:`LESSON`.

    Args:
        teacher: whose, as an index.
        batches: the prompts, each kept in its own batch.

    Returns:
        The lessons; their shares sum to 1.
    """
    prompts = sum(len(batch) for batch in batches)
    return [
        Lesson(teacher, small, len(small) / prompts)
        for batch in batches
        for small in (batch.rows(slice(i, i + LESSON)) for i in range(0, len(batch), LESSON))
    ]
