"""Keep a base half knowing every task family, so that an expert has something to add and a merge to keep.

Families differ in how many examples they take, and some are learnt all at once, so exposure is a control loop: the
exact-match rate on tuning inputs decides what the next batches show.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .exact_match import exact_match
from .mixtures import Mixture
from .recipe import Recipe, SettlingRecipe
from .world import World

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Settling", "known_families", "settling_mixture", "steer"]

_BLURRED = " blurred"
# Forgetting is slower than learning, so exposure falls faster than it rises.
_MORE, _LESS = 1.4, 0.35
_STEER_INPUTS, _SETTLE_INPUTS, _SURE_INPUTS = 32, 128, 512
_STEER_FROM = 0.1
_REHEARSE = 0.03

_Step = Callable[[int], bool]


def steer(
    world: World,
    recipe: Recipe,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    mixture: Mixture,
    advance: _Step,
) -> _Step:
    """Steer exposure during pretraining: more of the families known too little, less of those known too well.

    Args:
        world: the world.
        recipe: the band and the weights.
        model: the model being trained.
        tokenizer: its tokenizer.
        mixture: what it is trained on; its family weights are changed in place.
        advance: called after each step.

    Returns:
        The callback for each step.
    """

    def on_step(done: int) -> bool:
        if done % recipe.check_every == 0 and done >= _STEER_FROM * recipe.unaligned.steps:
            for name, rate in known_families(world, model, tokenizer, world.families, _STEER_INPUTS).items():
                change = _MORE if rate < recipe.known_low else _LESS if rate > recipe.known_high else 1.0
                weight = mixture.weights[name] * change
                mixture.weights[name] = min(max(weight, recipe.family_weight_floor), recipe.family_weight_cap)
        return advance(done)

    return on_step


def settling_mixture(world: World, training: Mixture) -> Mixture:
    """A base's training mixture with a blurred twin of each family: its prompts with answers of other prompts.

    Args:
        world: the world.
        training: what the base was trained on.

    Returns:
        The mixture; the twins start with weight 0.
    """
    pools, weights = dict(training.pools), dict(training.weights)
    for name in world.families:
        pool = pools[name]
        others = [*pool[1:], pool[0]]
        pools[name + _BLURRED] = [replace(s, response=o.response) for s, o in zip(pool, others, strict=True)]
        weights[name], weights[name + _BLURRED] = _REHEARSE, 0.0
    return Mixture(pools, weights)


class Settling:
    """Bring every family into the band after a base's training, and remember the state that came closest.

    Attributes:
        best: the parameters of the best state so far.
        inside: whether every family was in the band at that state.
    """

    def __init__(
        self,
        world: World,
        recipe: Recipe,
        how: SettlingRecipe,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        mixture: Mixture,
        advance: _Step,
    ) -> None:
        """Check once, so that the first step has its weights.

        Args:
            world: the world.
            recipe: the band.
            how: how strongly a family is taught or blurred.
            model: the model being trained.
            tokenizer: its tokenizer.
            mixture: from :func:`settling_mixture`; its weights are changed in place.
            advance: called after each step.
        """
        self._world, self._recipe, self._how, self._model, self._tokenizer = world, recipe, how, model, tokenizer
        self._mixture, self._advance = mixture, advance
        self._least = float("inf")
        self.best: dict[str, Tensor] = {}
        self.inside = False
        self._check()

    def __call__(self, done: int) -> bool:
        """Count one step; every few steps check the families and set the weights anew.

        Args:
            done: steps done.

        Returns:
            Whether to go on: not once every family is in the band.
        """
        if done % self._recipe.settle_every == 0:
            self._check()
        return self._advance(done) and not self.inside

    def restore(self) -> None:
        """Put the best state back into the model and set the weights for it."""
        self._model.load_state_dict(self.best)
        self._check()

    def _check(self) -> None:
        low, high = self._recipe.settled_low, self._recipe.settled_high
        known = self._known(_SETTLE_INPUTS)
        if self._distance(known) < self._least:
            # The best of many noisy checks would be the luckiest one: look again, on more inputs.
            distance = self._distance(self._known(_SURE_INPUTS))
            if distance < self._least:
                self._least, self.inside = distance, distance == 0.0
                self.best = copy.deepcopy(self._model.state_dict())
        for name, rate in known.items():
            self._mixture.weights[name] = _REHEARSE + self._how.teach * max(low - rate, 0.0)
            self._mixture.weights[name + _BLURRED] = self._how.blur * max(rate - high, 0.0)

    def _known(self, inputs: int) -> dict[str, float]:
        return known_families(self._world, self._model, self._tokenizer, self._world.families, inputs)

    def _distance(self, known: dict[str, float]) -> float:
        """How far the families lie outside the band; one far outside is worse than several that miss it by a little."""
        low, high = self._recipe.settled_low, self._recipe.settled_high
        return sum(max(low - rate, rate - high, 0.0) ** 2 for rate in known.values())


def known_families(
    world: World,
    model: "nn.Module",
    tokenizer: "PreTrainedTokenizerBase",
    families: Sequence[str],
    inputs: int = 256,
) -> dict[str, float]:
    """Exact-match rates on tuning inputs; the model is left in the mode it was in.

    Args:
        world: the world.
        model: a causal language model.
        tokenizer: its tokenizer.
        families: which ones, also none.
        inputs: of each family.

    Returns:
        Family → rate.
    """
    samples = [s for name in families for s in world.samples(f"task:{name}", "tuning", inputs)]
    if not samples:
        return {}
    training = model.training
    model.eval()
    rates = exact_match(model, tokenizer, samples).view(-1, inputs).float().mean(1).tolist()
    model.train(training)
    return dict(zip(families, rates, strict=True))
