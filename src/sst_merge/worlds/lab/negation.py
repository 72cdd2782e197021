"""Move what a base knows of one family into the band, along the direction in which that family is learnt.

Training does not hold every family in the band: knowledge that was only covered by the noise of large steps comes back
when the steps get small. An expert's update, scaled down and added or subtracted, changes its own family and leaves the
others and the refusals nearly as they were (negation of a task vector, arXiv 2212.04089, section 3), and how much of it
to take is a search on a line.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .mixtures import expert_mixture
from .models import new_adapter
from .partial_knowledge import known_families
from .recipe import Recipe
from .training import train
from .world import World

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["move_into_band"]

_INPUTS = 512
_HALVINGS = 7

_State = dict[str, "Tensor"]


def move_into_band(
    world: World,
    recipe: Recipe,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rng: random.Random,
    advance: Callable[[int], bool],
) -> bool:
    """Take the family farthest outside the band, move it to the band's middle, and so on until none is outside.

    Args:
        world: the world.
        recipe: the band, the number of moves and how an expert is trained.
        model: the base; changed in place.
        tokenizer: its tokenizer.
        rng: decides the batches.
        advance: called after each training step of each direction, with the steps done so far.

    Returns:
        Whether every family is inside now.
    """
    middle = (recipe.settled_low + recipe.settled_high) / 2
    for move in range(recipe.moves + 1):
        known = known_families(world, model, tokenizer, world.families, _INPUTS)
        name = max(known, key=lambda n: abs(known[n] - middle))
        if recipe.settled_low <= known[name] <= recipe.settled_high:
            return True
        if move == recipe.moves:
            break
        begun = partial(_further, advance, move * recipe.expert.steps)
        direction = _direction(world, recipe, model, tokenizer, name, rng, begun)
        _search(world, model, tokenizer, name, direction, middle, subtract=known[name] > middle)
    return False


def _further(advance: Callable[[int], bool], begun: int, done: int) -> bool:
    return advance(begun + done)


def _direction(
    world: World,
    recipe: Recipe,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    name: str,
    rng: random.Random,
    advance: Callable[[int], bool],
) -> _State:
    """What one round of an expert's training would add to the weights; the model itself stays as it is."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapted = new_adapter(model, recipe.expert)
    mixture = expert_mixture(world, name, general=recipe.expert_general)
    train(adapted, tokenizer, mixture, recipe.expert, rng=rng, on_step=advance)
    adapted.merge_and_unload()
    after = model.state_dict()
    direction = {key: after[key] - value for key, value in before.items()}
    model.load_state_dict(before)
    return direction


def _search(
    world: World,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    name: str,
    direction: _State,
    target: float,
    *,
    subtract: bool,
) -> None:
    """Bisect between no step and a whole one, and leave the model at the step whose rate was nearest to the target."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sign = -1.0 if subtract else 1.0
    low, high = 0.0, 1.0
    nearest, best = float("inf"), 0.0

    def step_to(t: float) -> None:
        model.load_state_dict({key: value + sign * t * direction[key] for key, value in before.items()})

    for _ in range(_HALVINGS):
        t = (low + high) / 2
        step_to(t)
        rate = known_families(world, model, tokenizer, [name], _INPUTS)[name]
        if abs(rate - target) < nearest:
            nearest, best = abs(rate - target), t
        too_far = rate < target if subtract else rate > target
        low, high = (low, t) if too_far else (t, high)
    step_to(best)
