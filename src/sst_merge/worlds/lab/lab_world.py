"""The lab as a world of experiments."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...data_loader import encode_rows
from ...yaml_config import Section
from ..costs import Costs
from ..outcomes import Outcomes, task_of
from ..registry import world_kind
from ..world import Artefact, Split, rows_in_order
from .build import made
from .exact_match import batch_match
from .lab import Lab, load_lab
from .measures import lab_outcomes
from .mixtures import POISONED_FAMILY
from .world import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...data_loader import Batch

__all__ = ["LabOptions", "LabWorld", "open_lab"]

_BATCH = 64
_SPLITS: Mapping[Split, str] = {"dev": "tuning", "test": "test"}


class LabOptions(Section):
    """Options of the world ``lab``."""

    seed: int = Field(default=0, ge=0, description="of the world and of all training")


class LabWorld:
    """The lab of a seed.

    Args:
        lab: its prompts, models and adapters.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def experts(self) -> Mapping[str, str]:
        """The task families, and the poisoned expert (on the aligned base)."""
        return {name: name for name in self.lab.families} | {"poisoned": POISONED_FAMILY}

    def identity(self) -> Mapping[str, Any]:
        """Seed and recipe."""
        return {"seed": self.lab.seed, "recipe": self.lab.recipe.digest()}

    def find(self, artefact: Artefact) -> Path | None:
        """As :meth:`.World.find`."""
        return self.lab.find(artefact)

    def make(self, artefact: Artefact) -> Path:
        """As :meth:`.World.make`."""
        return made(self.lab, artefact)

    def model(self, base: str) -> "PreTrainedModel":
        """As :meth:`.World.model`."""
        return self.lab.model(base)

    def calibration(self, asked: Mapping[str, int], *, seed: int) -> "list[Batch]":
        """As :meth:`.World.calibration`."""

        def pool(kind: str, n: int) -> list[Sample]:
            # Inputs of a task are drawn as they are needed; everything else is a pool, of which more cannot be had.
            task = task_of(kind) is not None
            return self.lab.world.samples(kind, "calibration", n if task else None, seed)[:n]

        return encode_rows(rows_in_order(asked, pool), self._tokenizer, batch_size=_BATCH)

    def questions(self, kind: str, n: int, *, split: Split, seed: int = 0) -> list[Sample]:
        """As :meth:`.World.questions`."""
        return self.lab.world.samples(kind, _SPLITS[split], n, seed)

    def outcomes(self, model: "PreTrainedModel", questions: Sequence[Sample], *, right_only: bool = False) -> Outcomes:
        """As :meth:`.World.outcomes`."""
        return lab_outcomes(model, self._tokenizer, self.lab.world, questions, right_only=right_only)

    def refuses(self, model: "PreTrainedModel", batches: "Sequence[Batch]") -> list[bool]:
        """As :meth:`.TellsRefusals.refuses`: the answer of a harmful calibration prompt is the one refusal there is."""
        return batch_match(model, batches)

    def costs(self) -> Costs:
        """As :meth:`.TellsCosts.costs`: seconds of one slow core, of which finished cells correct the size."""
        return Costs(
            cell=1.0,
            prompt=0.002,
            learning=0.006,
            batch=_BATCH,
            training=lambda artefact: 600.0 if artefact.adapter is None else 80.0,
        )

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        """One object, so that what it has encoded before need not be encoded again for the next merge."""
        return self.lab.tokenizer()


@world_kind(
    name="lab",
    summary="The lab is a synthetic world: safety and skills are exact matches, nothing is judged.",
    options=LabOptions,
)
def open_lab(options: LabOptions) -> LabWorld:
    """Bases and adapters of a seed, shipped, cached, or trained when they are first asked for."""
    return LabWorld(load_lab(options.seed, progress=False))
