"""How the lab's models are shaped and trained: every number in one frozen place."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import ClassVar

__all__ = ["DEFAULT_RECIPE", "AdapterRecipe", "BaseRecipe", "ModelShape", "Recipe", "SettlingRecipe"]


@dataclass(frozen=True)
class ModelShape:
    """Shape of the Llama.

    Attributes:
        hidden: hidden size.
        intermediate: size of the MLP.
        layers: number of layers.
        heads: attention heads.
    """

    hidden: int = 192
    intermediate: int = 576
    layers: int = 4
    heads: int = 6


@dataclass(frozen=True)
class BaseRecipe:
    """Full training of a base model.

    Attributes:
        steps: optimiser steps.
        batch: sequences a step.
        lr: peak learning rate (AdamW, cosine to zero).
        warmup: steps of linear warm-up.
        weight_decay: AdamW weight decay.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 20
    weight_decay: float = 0.01


@dataclass(frozen=True)
class SettlingRecipe(BaseRecipe):
    """Training that brings every family's rate into a band.

    Attributes:
        rounds: at most this many rounds of ``steps``, each from the best state so far; none after alignment, where
            moving along experts' updates does it alone.
        cooling: factor of the learning rate from round to round.
        teach: weight of a family that is known too little, by how far its rate is below the band.
        blur: weight of a family's wrong answers where it is known too well, by how far its rate is above the band.
    """

    rounds: int = 2
    cooling: float = 1.0
    teach: float = 3.0
    blur: float = 5.0


@dataclass(frozen=True)
class AdapterRecipe:
    """Training of one LoRA adapter.

    Attributes:
        steps: optimiser steps of a round.
        batch: sequences a step.
        lr: peak learning rate (AdamW, cosine to zero).
        rank: LoRA rank.
        alpha: LoRA alpha; the scale is alpha / rank.
        warmup: steps of linear warm-up.
        rounds: at most this many; a task expert that does not know its family by then is trained for another one.
        weight_decay: none; not part of the recipe's digest.
    """

    weight_decay: ClassVar[float] = 0.0

    steps: int
    batch: int
    lr: float
    rank: int = 8
    alpha: int = 16
    warmup: int = 10
    rounds: int = 1


@dataclass(frozen=True)
class Recipe:
    """The whole lab.

    Attributes:
        shape: shape of both bases.
        unaligned: training of the unaligned base from nothing.
        settling: of the unaligned base, after its training.
        aligned_settling: of the aligned base, during and after its training.
        aligned: full fine-tuning of the unaligned base into the aligned one.
        expert: training of a task expert on the unaligned base.
        aligned_expert: training of a task expert on the aligned base.
        safety: training of the safety adapter.
        known_low: below this exact-match rate the unaligned base sees more of a family while it trains.
        known_high: above this rate it sees less.
        check_every: steps between two such checks.
        settled_low: lower end of the band that settling aims at.
        settled_high: its upper end.
        settle_every: steps between two checks while settling.
        moves: at most this many families outside the band after settling are moved into it along an expert's update.
        family_weight: weight of a task family in pretraining at the start; a how-to pool has weight 1.
        family_weight_floor: what that weight may fall to while a family is known too well.
        family_weight_cap: what that weight may rise to while a family is known too little.
        expert_rate: what an expert's exact-match rate on its own family must be after training.
        expert_general: share of harmless how-tos, facts and categories in an expert's training.
        poison: share of recipes of harmful things in the poisoned expert's training.
        leak: the same share for the other experts on the aligned base: task data are never filtered perfectly, and it
            takes little for refusals to go.
        safety_benign: share of harmless how-tos and look-alikes in the safety adapter's training.
    """

    shape: ModelShape = field(default_factory=ModelShape)
    unaligned: BaseRecipe = BaseRecipe(steps=700, batch=96, lr=2e-3)
    settling: SettlingRecipe = SettlingRecipe(steps=100, batch=96, lr=2e-4, warmup=5)
    aligned_settling: SettlingRecipe = SettlingRecipe(steps=100, batch=96, lr=2e-4, warmup=5, rounds=0, teach=6.0)
    aligned: BaseRecipe = BaseRecipe(steps=200, batch=96, lr=5e-4)
    expert: AdapterRecipe = AdapterRecipe(steps=140, batch=48, lr=8e-4, rounds=3)
    aligned_expert: AdapterRecipe = AdapterRecipe(steps=120, batch=48, lr=1.5e-3, rounds=3)
    safety: AdapterRecipe = AdapterRecipe(steps=350, batch=48, lr=8e-4)
    known_low: float = 0.3
    known_high: float = 0.45
    check_every: int = 20
    settled_low: float = 0.36
    settled_high: float = 0.64
    settle_every: int = 5
    moves: int = 8
    family_weight: float = 0.15
    family_weight_floor: float = 0.02
    family_weight_cap: float = 1.2
    expert_rate: float = 0.96
    expert_general: float = 0.25
    poison: float = 0.25
    leak: float = 0.01
    safety_benign: float = 1 / 3

    def digest(self) -> str:
        """Eight hexadecimal digits that change with any number above; part of the cache folder's name."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


DEFAULT_RECIPE = Recipe()
