"""One merge problem on the lab: skill adapters, a safety adapter, calibration data, the base model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..data_loader import encode_rows
from ..fim_calculator import Batch, build_spaces
from ..lab import Lab, Sample
from ..lora_utils import Adapter
from ..registry import MergeProblem

__all__ = ["LabSetup", "lab_setup"]


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
