"""Ask one model prompts of several kinds."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .outcomes import GENERAL, HARM, LOOKALIKE, Outcomes, Scores, task_kind
from .world import Split, World

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["all_kinds", "ask", "measure"]


def all_kinds(tasks: Iterable[str], n: int) -> dict[str, int]:
    """Every kind of prompt, as many of each.

    Args:
        tasks: whose prompts are asked, too.
        n: prompts a kind.

    Returns:
        Kind → n.
    """
    return dict.fromkeys([*HARM, LOOKALIKE, GENERAL, *map(task_kind, tasks)], n)


def ask(
    world: World,
    model: "PreTrainedModel",
    asked: Mapping[str, int],
    *,
    split: Split,
    seed: int = 0,
    right_only: bool = False,
) -> dict[str, Outcomes]:
    """What a model does with prompts of several kinds; all go through it together, so that batches are full.

    Args:
        world: whose prompts.
        model: a model of that world.
        asked: kind → how many prompts.
        split: which ones.
        seed: decides which prompts.
        right_only: whether nothing but right answers is looked for.

    Returns:
        Kind → outcomes.
    """
    questions = {kind: world.questions(kind, n, split=split, seed=seed) for kind, n in asked.items()}
    flat = [question for of in questions.values() for question in of]
    if not flat:
        return {kind: Outcomes((), (), ()) for kind in questions}
    outcomes = world.outcomes(model, flat, right_only=right_only)
    found, start = {}, 0
    for kind, of in questions.items():
        found[kind] = outcomes.part(start, start + len(of))
        start += len(of)
    return found


def measure(
    world: World, model: "PreTrainedModel", tasks: Iterable[str], *, split: Split = "test", n: int = 256, seed: int = 0
) -> Scores:
    """Every rate of one model.

    Args:
        world: whose prompts.
        model: a model of that world.
        tasks: to ask for, also none.
        split: which prompts.
        n: prompts a kind.
        seed: decides which prompts.

    Returns:
        The rates.
    """
    return Scores.of(ask(world, model, all_kinds(tasks, n), split=split, seed=seed))
