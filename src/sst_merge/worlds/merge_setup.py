"""One merge problem in a world: skill adapters, perhaps a safety adapter, calibration data, the base model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import DataError
from ..fim_calculator import build_spaces
from ..lora_utils import Adapter, BaseWeights
from ..methods import MergeProblem
from ..texts import did_you_mean
from .asking import ask
from .outcomes import GENERAL, HARM, Outcomes, task_kind
from .updates import Update, UpdatedModel
from .world import ALIGNED, SAFETY, UNALIGNED, Artefact, Split, TellsRefusals, World

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Answer", "MergeSetup", "loaded_adapter", "merge_setup"]


class Answer(Protocol):
    """What the base with an update added does with every single prompt."""

    def __call__(
        self, update: Update | None, asked: Mapping[str, int], *, split: Split, right_only: bool = False
    ) -> dict[str, Outcomes]:
        """Ask one model.

        Args:
            update: what is added; None is the base itself.
            asked: kind of prompt → how many.
            split: which prompts.
            right_only: whether nothing but right answers is looked for.

        Returns:
            Kind → outcomes.
        """
        ...


@dataclass(frozen=True)
class MergeSetup:
    """A merge problem with the world that it is measured in.

    Attributes:
        world: where prompts and answers come from.
        problem: adapters, core spaces, model and calibration batches.
        tasks: of the skill adapters.
        base: that they were trained on.
        adapter_seed: of their training.
    """

    world: World
    problem: MergeProblem
    tasks: tuple[str, ...]
    base: str = UNALIGNED
    adapter_seed: int = 0

    def loaded(self, name: str) -> Adapter:
        """An adapter that is not merged, such as one that is trained on the data of all.

        Args:
            name: of an adapter of the same base and seed.

        Returns:
            The adapter.
        """
        return loaded_adapter(self.world, name, base=self.base, seed=self.adapter_seed)

    @contextmanager
    def answering(self) -> Iterator[Answer]:
        """The base made ready to take updates; it is the base again afterwards.

        Yields:
            A function that asks one updated model.
        """
        model = self.model
        with UpdatedModel(model, list(self.problem.spaces)) as updated:

            def answer(
                update: Update | None, asked: Mapping[str, int], *, split: Split, right_only: bool = False
            ) -> dict[str, Outcomes]:
                updated.set(update)
                return ask(self.world, model, asked, split=split, right_only=right_only)

            yield answer

    @property
    def model(self) -> "PreTrainedModel":
        """The base model."""
        assert self.problem.model is not None
        return self.problem.model


def loaded_adapter(world: World, name: str, *, base: str, seed: int) -> Adapter:
    """An adapter of a world, under its own name.

    Args:
        world: whose.
        name: of an expert, or ``safety``.
        base: that it was trained on.
        seed: of its training.

    Returns:
        The adapter, with its role.
    """
    folder = world.make(Artefact(base, name, seed))
    return Adapter.load(folder, name=name, role="safety" if name == SAFETY else "utility")


def merge_setup(
    world: World,
    skills: Sequence[str],
    *,
    base: str = UNALIGNED,
    safety: bool | None = None,
    adapter_seed: int = 0,
    harm_samples: int = 256,
    benign_samples: int = 384,
    skill_share: float = 0.5,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> MergeSetup:
    """Skill adapters on a base, with calibration data; on the unaligned base with the safety adapter.

    Harm data are direct and wrapped harmful requests with the refusal, benign data are the skills' own tasks and
    general prompts, all from the calibration split. On the aligned base the weights of both bases are given, so that
    methods can read what alignment changed.

    Args:
        world: the world.
        skills: skill adapters.
        base: one of :data:`.BASES`.
        safety: whether to merge the safety adapter; by default on the unaligned base, the only one it exists for.
        adapter_seed: which training run of the adapters.
        harm_samples: harmful calibration prompts, half of them direct as far as there are so many.
        benign_samples: benign calibration prompts.
        skill_share: share of the benign prompts from the skills' own tasks; 0 for a user who does not have them. Every
            skill has data of its own for methods that ask for it either way.
        seed: of the choice of prompts and of the merge.
        progress: handed to the merge methods.

    Returns:
        The problem.

    Raises:
        DataError: a skill that the world has no expert of.
    """
    unknown = [name for name in skills if name not in world.experts]
    if unknown:
        raise DataError(
            f"skill {unknown[0]!r}{did_you_mean(unknown[0], world.experts)}: the world has experts "
            f"{', '.join(world.experts)}"
        )
    if safety is None:
        safety = base == UNALIGNED
    names = [*skills, *([SAFETY] if safety else [])]
    adapters = [loaded_adapter(world, name, base=base, seed=adapter_seed) for name in names]
    tasks = {name: world.experts[name] for name in skills}
    each = int(benign_samples * (skill_share or 0.5)) // len(skills)
    own = {task_kind(task): each for task in tasks.values()} if skill_share > 0 else {}
    benign = {**own, GENERAL: benign_samples - sum(own.values())}
    harm = dict(zip(HARM, (harm_samples // 2, harm_samples - harm_samples // 2), strict=True))
    weights = {
        name: BaseWeights.load(world.make(Artefact(name))) if base == ALIGNED else None for name in (UNALIGNED, ALIGNED)
    }
    problem = MergeProblem(
        adapters=adapters,
        spaces=build_spaces(adapters, dtype=torch.float32),
        model=world.model(base),
        harm=world.calibration(harm, seed=seed),
        benign=world.calibration(benign, seed=seed),
        adapter_benign={name: world.calibration({task_kind(t): each}, seed=seed) for name, t in tasks.items()},
        seed=seed,
        progress=progress,
        base_weights=weights[UNALIGNED],
        aligned_weights=weights[ALIGNED],
        refuses=world.refuses if isinstance(world, TellsRefusals) else None,
    )
    return MergeSetup(world, problem, tuple(tasks.values()), base, adapter_seed)
