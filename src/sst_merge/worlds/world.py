"""What an experiment needs from a world, and nothing about how a world is made.

A world has two bases, adapters trained on them, prompts with right answers, and a way to say what a model did with a
prompt. Experiments, comparison, ablation, pages and demo know this protocol alone; how to add a world:
``docs/extending/world.md``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from ..errors import DataError
from .outcomes import Outcomes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data_loader import Batch

__all__ = [
    "ALIGNED",
    "BASES",
    "SAFETY",
    "UNALIGNED",
    "Artefact",
    "Question",
    "Split",
    "TellsRefusals",
    "World",
    "joint",
    "rows_in_order",
]

UNALIGNED, ALIGNED = "unaligned", "aligned"
BASES = (UNALIGNED, ALIGNED)
"""The bases of every world: one that answers everything, and one that refuses what is harmful."""

SAFETY = "safety"
"""The adapter that brings refusals to the unaligned base."""

_JOINED = "+"

Split = Literal["dev", "test"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Artefact:
    """A base, or an adapter of a base.

    Attributes:
        base: one of :data:`BASES`.
        adapter: name of an expert, or :data:`SAFETY`; several of them joined by ``+`` are one adapter that is trained
            on the data of all (:func:`joint`); None is the base itself.
        seed: of the adapter's training.
    """

    base: str
    adapter: str | None = None
    seed: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The adapters whose data it is trained on: itself, or those that it joins; none for a base."""
        return () if self.adapter is None else tuple(self.adapter.split(_JOINED))

    def __str__(self) -> str:
        """As in titles and messages."""
        if self.adapter is None:
            return f"base {self.base}"
        return f"adapter {self.adapter} on {self.base}, seed {self.seed}"


def joint(names: Sequence[str]) -> str:
    """The adapter that is trained on the data of several: what a merge of them can hardly miss.

    Args:
        names: of experts, perhaps with :data:`SAFETY`.

    Returns:
        Its name.
    """
    return _JOINED.join(names)


class Question(Protocol):
    """One prompt; whatever else a world keeps with it is its own matter."""

    @property
    def prompt(self) -> str:
        """What the user says."""


class World(Protocol):
    """Bases, adapters, prompts, and what counts as an answer.

    Kinds of prompts are ``harmful`` and ``jailbreak`` (right: a refusal), ``lookalike`` (harmless in the words of
    harmful ones), ``general`` (what every model should know) and ``task:NAME``. A world may have more, such as
    ``ordinary`` prompts that nobody should refuse; :func:`~.asking.ask` takes them, experiments do not ask for them.
    Prompts of calibration, dev and test are disjoint.
    """

    @property
    def experts(self) -> Mapping[str, str]:
        """Every skill adapter → the task that it was trained for.

        An expert has its task's name; one of another name, such as ``poisoned``, is a variant of its task's expert.
        """

    def identity(self) -> Mapping[str, Any]:
        """Plain values that decide prompts and outcomes: seeds, recipes, hashes of data. A cell's key contains them."""

    def find(self, artefact: Artefact) -> Path | None:
        """Where an artefact lies that is there already.

        Args:
            artefact: a base (a folder as transformers writes it) or an adapter (a folder as PEFT writes it).

        Returns:
            The folder, or None where it would have to be trained first.
        """

    def make(self, artefact: Artefact) -> Path:
        """Where an artefact lies; trains it first where it is missing, and the base of an adapter before it.

        Args:
            artefact: a base or an adapter.

        Returns:
            The folder.

        Raises:
            DataError: the world has no such artefact.
        """

    def model(self, base: str) -> "PreTrainedModel":
        """A base, newly loaded, in evaluation mode.

        Args:
            base: one of :data:`BASES`.

        Returns:
            The model; whoever asks may change its weights.
        """

    def calibration(self, asked: Mapping[str, int], *, seed: int) -> "list[Batch]":
        """What merge methods look at: prompts with right answers of several kinds, in batches.

        Args:
            asked: kind → how many prompts. What one kind lacks is made up by the next (:func:`rows_in_order`).
            seed: decides which prompts.

        Returns:
            Batches on the CPU; labels on the answers alone.

        Raises:
            DataError: an unknown kind, or the kinds have too few prompts together.
        """

    def questions(self, kind: str, n: int, *, split: Split, seed: int = 0) -> Sequence[Question]:
        """Prompts to ask models.

        Args:
            kind: of prompt.
            n: how many.
            split: ``dev`` prompts choose strengths, ``test`` prompts are reported.
            seed: decides which prompts.

        Returns:
            The prompts; the same for the same arguments.

        Raises:
            DataError: an unknown kind, or too few prompts.
        """

    def outcomes(self, model: "PreTrainedModel", questions: Sequence[Any], *, right_only: bool = False) -> Outcomes:
        """What a model does with every prompt.

        Args:
            model: one of this world's bases, or such a base with an update added.
            questions: this world's own, of any kinds, at least one.
            right_only: whether nothing but right answers is looked for, which may take half the time.

        Returns:
            One outcome per prompt, in order.
        """


@runtime_checkable
class TellsRefusals(Protocol):
    """What a world may have beside :class:`World`: merges that keep to a rate of refusals (``safety_target``)."""

    def refuses(self, model: "PreTrainedModel", batches: "Sequence[Batch]") -> Sequence[bool]:
        """Which harmful calibration prompts a model refuses, by the same measure as :meth:`World.outcomes`.

        Args:
            model: one of this world's bases, perhaps with an update added.
            batches: of :meth:`World.calibration`, harmful kinds.

        Returns:
            One verdict a prompt, in order.
        """


def rows_in_order(asked: Mapping[str, int], pool: Callable[[str, int], Sequence[Row]]) -> list[Row]:
    """Rows of several kinds; what one kind lacks is made up by the next.

    Args:
        asked: kind → how many rows.
        pool: (kind, n) → at most n rows of the kind.

    Returns:
        As many rows as were asked for.

    Raises:
        DataError: the last kinds do not have enough to make up for the others.
    """
    rows: list[Row] = []
    missing = 0
    for kind, n in asked.items():
        found = pool(kind, n + missing)
        missing += n - len(found)
        rows += found
    if missing:
        raise DataError(f"calibration: {dict(asked)} asked for, {missing} prompts are missing; ask for fewer")
    return rows
