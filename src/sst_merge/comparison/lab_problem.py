"""One merge problem on the lab: skill adapters, a safety adapter, calibration data, the base model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from ..data_loader import encode_rows
from ..fim_calculator import Batch, build_spaces
from ..lab import Lab, Sample
from ..lab.measures import LabScores, evaluate_lab
from ..lora_utils import Adapter
from ..registry import MergeProblem
from .updates import Update, UpdatedModel

__all__ = ["LabSetup", "Measure", "lab_setup"]


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
        model = self.problem.model
        assert model is not None
        tokenizer = self.lab.tokenizer()
        with UpdatedModel(model, list(self.problem.spaces)) as updated:

            def measure(update: Update | None, *, split: str, n: int) -> LabScores:
                updated.set(update)
                return evaluate_lab(model, self.lab, families=self.skills, split=split, n=n, tokenizer=tokenizer)

            yield measure


def lab_setup(
    lab: Lab,
    skills: Sequence[str],
    *,
    adapter_seed: int = 0,
    harm_samples: int = 256,
    benign_samples: int = 384,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> LabSetup:
    """Skill adapters and the safety adapter on the unaligned base, with calibration data.

    Harm data are direct and wrapped harmful requests with the refusal, benign data are half the skills' own tasks and
    half general knowledge; all from the calibration split, whose objects, wrappers and inputs occur nowhere else.

    Args:
        lab: the world.
        skills: task families, one expert each.
        adapter_seed: which training run of the adapters.
        harm_samples: harmful calibration prompts.
        benign_samples: benign calibration prompts.
        seed: of the choice of prompts and of the merge.
        progress: handed to the merge methods.

    Returns:
        The problem; batches hold 64 samples.
    """
    adapters = [
        *(Adapter.load(lab.adapter_path(name, seed=adapter_seed), name=name) for name in skills),
        Adapter.load(lab.adapter_path("safety", seed=adapter_seed), name="safety", role="safety"),
    ]
    draw = lab.world.samples
    harm = draw("harmful", "calibration", harm_samples // 2, seed)
    harm += draw("jailbreak", "calibration", harm_samples - len(harm), seed)
    own = {name: draw(f"task:{name}", "calibration", benign_samples // 2 // len(skills), seed) for name in skills}
    benign = [s for samples in own.values() for s in samples]
    benign += draw("general", "calibration", benign_samples - len(benign), seed)
    tokenizer = lab.tokenizer()

    def encode(samples: Sequence[Sample]) -> list[Batch]:
        return encode_rows(samples, tokenizer, batch_size=64)

    problem = MergeProblem(
        adapters,
        build_spaces(adapters, dtype=torch.float32),
        lab.model("unaligned"),
        encode(harm),
        encode(benign),
        {name: encode(samples) for name, samples in own.items()},
        seed,
        progress,
    )
    return LabSetup(lab, problem, tuple(skills), adapter_seed)
