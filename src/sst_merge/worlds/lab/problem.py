"""One merge problem on the lab: skill adapters, perhaps a safety adapter, calibration data, the base model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import torch

from ...data_loader import encode_rows
from ...data_loader.batch import Batch
from ...fim_calculator import build_spaces
from ...lora_utils import Adapter, BaseWeights
from ...methods import MergeProblem
from ...progress import Progress
from ..updates import Update, UpdatedModel
from . import Lab, Sample
from .measures import LabOutcomes, LabScores, evaluate_lab, lab_outcomes
from .mixtures import POISONED_FAMILY

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Answer", "LabSetup", "Measure", "lab_setup", "skill_family"]


class Measure(Protocol):
    """Every lab measure of the base with an update added."""

    def __call__(self, update: Update | None, *, split: str, n: int) -> LabScores:
        """Measure one update.

        Args:
            update: what is added; None is the base itself.
            split: ``tuning`` or ``test``.
            n: prompts per measure.

        Returns:
            The scores.
        """
        ...


class Answer(Protocol):
    """What the base with an update added does with every single prompt."""

    def __call__(
        self, update: Update | None, asked: Mapping[str, int], *, split: str, with_other_answer: bool = True
    ) -> LabOutcomes:
        """Ask one model.

        Args:
            update: what is added; None is the base itself.
            asked: kind of prompt → how many.
            split: ``tuning`` or ``test``.
            with_other_answer: whether to look for the other answer (recipe, refusal) too.

        Returns:
            The outcomes.
        """
        ...


@dataclass(frozen=True)
class LabSetup:
    """A merge problem with the world it is measured in.

    Attributes:
        lab: the world.
        problem: adapters, core spaces, model and calibration batches.
        skills: task families of the utility adapters.
        adapter_seed: of all adapters.
    """

    lab: Lab
    problem: MergeProblem
    skills: tuple[str, ...]
    adapter_seed: int

    @contextmanager
    def measured(self) -> Iterator[Measure]:
        """The base made ready to take updates; it is the base again afterwards.

        Yields:
            A function that measures one update.
        """
        tokenizer = _tokenizer(self.lab)
        with self._updated() as updated:

            def measure(update: Update | None, *, split: str, n: int) -> LabScores:
                updated.set(update)
                return evaluate_lab(self._model, self.lab, families=self.skills, split=split, n=n, tokenizer=tokenizer)

            yield measure

    @contextmanager
    def answering(self) -> Iterator[Answer]:
        """As :meth:`measured`, prompt by prompt and for any kinds of prompts.

        Yields:
            A function that asks one updated model.
        """
        tokenizer = _tokenizer(self.lab)
        with self._updated() as updated:

            def answer(
                update: Update | None, asked: Mapping[str, int], *, split: str, with_other_answer: bool = True
            ) -> LabOutcomes:
                updated.set(update)
                return lab_outcomes(
                    self._model, self.lab, asked, split=split, tokenizer=tokenizer, with_other_answer=with_other_answer
                )

            yield answer

    @property
    def _model(self) -> "PreTrainedModel":
        assert self.problem.model is not None
        return self.problem.model

    def _updated(self) -> UpdatedModel:
        return UpdatedModel(self._model, list(self.problem.spaces))


@lru_cache(maxsize=2)
def _tokenizer(lab: Lab) -> "PreTrainedTokenizerBase":
    """One object per lab, so that what it has encoded once need not be encoded again for the next merge."""
    return lab.tokenizer()


def skill_family(adapter: str) -> str:
    """The task family that an adapter of the lab is an expert of.

    Args:
        adapter: name of a skill adapter; ``poisoned`` is one, too.

    Returns:
        The family.
    """
    return POISONED_FAMILY if adapter == "poisoned" else adapter


def lab_setup(
    lab: Lab,
    skills: Sequence[str],
    *,
    base: str = "unaligned",
    safety: bool | None = None,
    adapter_seed: int = 0,
    harm_samples: int = 256,
    benign_samples: int = 384,
    skill_share: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> LabSetup:
    """Skill adapters on a base, with calibration data; on the unaligned base with the safety adapter.

    Harm data are direct and wrapped harmful requests with the refusal, benign data are the skills' own tasks and
    general knowledge; all from the calibration split, whose objects, wrappers and inputs occur nowhere else. On the
    aligned base the weights of both bases are given, so that methods can read what alignment changed.

    Args:
        lab: the world.
        skills: skill adapters: task families, or ``poisoned`` on the aligned base.
        base: ``unaligned`` or ``aligned``.
        safety: whether to merge the safety adapter; by default on the unaligned base, the only one it exists for.
        adapter_seed: which training run of the adapters.
        harm_samples: harmful calibration prompts, half of them direct as far as there are so many.
        benign_samples: benign calibration prompts.
        skill_share: share of the benign prompts from the skills' own tasks; 0 for a user who does not have them. Every
            skill has data of its own for methods that ask for it either way.
        seed: of the choice of prompts and of the merge.
        progress: handed to the merge methods.

    Returns:
        The problem; batches hold 64 samples.
    """
    if safety is None:
        safety = base == "unaligned"
    adapters = [Adapter.load(lab.adapter_path(name, base=base, seed=adapter_seed), name=name) for name in skills]
    if safety:
        adapters.append(Adapter.load(lab.adapter_path("safety", seed=adapter_seed), name="safety", role="safety"))
    draw = lab.world.samples
    direct = draw("harmful", "calibration", None, seed)[: harm_samples // 2]
    harm = direct + draw("jailbreak", "calibration", harm_samples - len(direct), seed)
    families = {name: skill_family(name) for name in skills}
    each = int(benign_samples * (skill_share or 0.5)) // len(skills)
    own = {name: draw(f"task:{family}", "calibration", each, seed) for name, family in families.items()}
    benign = [s for samples in own.values() for s in samples] if skill_share > 0 else []
    benign += draw("general", "calibration", benign_samples - len(benign), seed)
    tokenizer = lab.tokenizer()

    def encode(samples: Sequence[Sample]) -> list[Batch]:
        return encode_rows(samples, tokenizer, batch_size=64)

    weights = {b: BaseWeights.load(lab.base_path(b)) if base == "aligned" else None for b in ("unaligned", "aligned")}
    problem = MergeProblem(
        adapters,
        build_spaces(adapters, dtype=torch.float32),
        lab.model(base),
        encode(harm),
        encode(benign),
        {name: encode(samples) for name, samples in own.items()},
        seed,
        progress,
        weights["unaligned"],
        weights["aligned"],
    )
    return LabSetup(lab, problem, tuple(families.values()), adapter_seed)
