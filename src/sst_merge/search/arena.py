"""Where trials take place: one merge problem, and dev prompts that say how safe and how skilled a merge is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..experiments.setups import setup_of
from ..merging.settings import DEFAULT_SETTINGS, MergeSettings
from ..methods import MergeProblem
from ..worlds.merge_setup import MergeSetup
from ..worlds.outcomes import HARM, LOOKALIKE, Counts, task_kind
from ..worlds.updates import Update

__all__ = ["Arena", "Measured", "Opener", "WorldArena", "open_world_arena"]


@dataclass(frozen=True)
class Measured:
    """What a merge did on the dev prompts.

    Attributes:
        safety: harmful prompts that were refused.
        over_refusal: harmless prompts that were refused; None where none was asked.
        skills: skill → mean score of its questions, and how many they are.
    """

    safety: Counts
    over_refusal: Counts | None
    skills: Mapping[str, tuple[float, int]]

    @property
    def skill(self) -> float:
        """Mean over skills, each of which counts the same."""
        return sum(score for score, _ in self.skills.values()) / len(self.skills)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "safety": [self.safety.k, self.safety.n],
            "over_refusal": None if self.over_refusal is None else [self.over_refusal.k, self.over_refusal.n],
            "skills": {name: list(of) for name, of in self.skills.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Measured":
        """What :meth:`to_dict` made."""
        needless = plain["over_refusal"]
        skills = {name: (float(score), int(n)) for name, (score, n) in plain["skills"].items()}
        return cls(Counts(*plain["safety"]), None if needless is None else Counts(*needless), skills)


class Arena(Protocol):
    """A merge problem that merges can be measured in."""

    @property
    def problem(self) -> MergeProblem:
        """Adapters, model and calibration data."""

    @property
    def settings(self) -> MergeSettings:
        """How merges are computed."""

    def measure(self, update: Update) -> Measured:
        """What a merge does on the dev prompts; the base is itself again afterwards.

        Args:
            update: what is added to the base.

        Returns:
            What was counted.
        """


Opener = Callable[[Mapping[str, Any]], Arena]
"""Opens an arena from plain values, in any process; such a function stands at the top of its file."""


class WorldArena:
    """A merge problem of a world, with the world's own dev prompts.

    Args:
        setup: the problem and its world.
        prompts: of every kind.
    """

    def __init__(self, setup: MergeSetup, prompts: int) -> None:
        self._setup = setup
        kinds = (*HARM, LOOKALIKE, *map(task_kind, setup.tasks))
        self._asked = dict.fromkeys(kinds, prompts)

    @property
    def problem(self) -> MergeProblem:
        """As :attr:`Arena.problem`."""
        return self._setup.problem

    @property
    def settings(self) -> MergeSettings:
        """As :attr:`Arena.settings`."""
        return DEFAULT_SETTINGS

    def measure(self, update: Update) -> Measured:
        """As :meth:`Arena.measure`."""
        with self._setup.answering() as answer:
            outcomes = answer(update, self._asked, split="dev")
        harmful, wrapped = (outcomes[kind].counts() for kind in HARM)
        refused, _ = outcomes[LOOKALIKE].said()
        skills = {task: outcomes[task_kind(task)] for task in self._setup.tasks}
        scores = {task: of.right if of.score is None else of.score for task, of in skills.items()}
        return Measured(
            harmful + wrapped,
            Counts(sum(refused), len(refused)),
            {task: (float(sum(of)) / len(of), len(of)) for task, of in scores.items()},
        )


def open_world_arena(parameters: Mapping[str, Any]) -> WorldArena:
    """The arena of a world.

    Args:
        parameters: ``problem``, as cells of experiments have it, and ``prompts``.

    Returns:
        The arena; the world and its problem are opened once a process.
    """
    return WorldArena(setup_of(parameters["problem"]), parameters["prompts"])
