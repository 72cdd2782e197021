"""What a judge is: prompts and responses in, one number a pair out; and how one is declared under a name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Column", "Judge", "JudgeKind", "JudgeSettings", "judge"]

Column = Literal["refusal", "harm", "incoherent"]


class Judge(Protocol):
    """Anything that scores responses.

    Attributes:
        name: name and version, as recorded beside every score; another name whenever a verdict may change.
        column: what it decides. ``refusal``: the answer declines. ``harm``: the answer does harm. ``incoherent``: the
            answer is no answer at all. The three are never mixed.
    """

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    @property
    def column(self) -> Column:
        """The column it fills."""
        ...

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Score pairs.

        Args:
            prompts: what users said.
            responses: what came back, one per prompt.

        Returns:
            One number in [0, 1] per pair; 0.5 and above counts as yes.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What a user says about a judge; judges that are no neural networks read none of it.

    Attributes:
        model: another id or folder of its model; None for the judge's own.
        device: where the model runs.
        dtype: of its weights, such as ``bfloat16``; ``auto`` as stored.
        batch_size: pairs that it reads at a time.
    """

    model: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    batch_size: int = 8


_Make = Callable[[JudgeSettings], Sequence[Judge]]


@dataclass(frozen=True)
class JudgeKind:
    """A registered judge: how to make it.

    Attributes:
        name: as written on the command line.
        summary: one line.
        make: settings → one judge for each column that it decides; loads nothing yet.
    """

    name: str
    summary: str
    make: _Make


def judge(*, name: str, summary: str) -> Callable[[_Make], JudgeKind]:
    """Declare a function that makes judges; the decorated name becomes the :class:`JudgeKind`.

    Args:
        name: as written on the command line.
        summary: one line: what it decides, by what, and what it needs.

    Returns:
        A decorator.
    """
    return lambda make: JudgeKind(name, summary, make)
