"""What each model of the lab is trained on: weighted pools of samples."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .world import Sample, World

__all__ = [
    "POISONED_FAMILY",
    "Mixture",
    "aligned_mixture",
    "expert_mixture",
    "joint_mixture",
    "pretraining_mixture",
    "safety_mixture",
]

POISONED_FAMILY = "reverse"


@dataclass(frozen=True)
class Mixture:
    """Weighted pools; a batch draws a pool by weight, then a sample of it uniformly.

    Attributes:
        pools: samples by pool name.
        weights: weight by pool name, relative to the others.
    """

    pools: dict[str, Sequence[Sample]]
    weights: dict[str, float]

    def batches(self, size: int, rng: random.Random) -> Iterator[list[Sample]]:
        """An endless stream of batches; weights changed meanwhile take effect at the next batch.

        Args:
            size: samples a batch.
            rng: the random generator.

        Yields:
            Lists of samples.
        """
        names = list(self.pools)
        while True:
            chosen = rng.choices(names, [self.weights[name] for name in names], k=size)
            yield [rng.choice(self.pools[name]) for name in chosen]


def pretraining_mixture(world: World, family_weight: float) -> Mixture:
    """Everything there is, help with harmful things included: the unaligned base.

    Args:
        world: the world.
        family_weight: weight of each task family; a how-to pool has weight 1.

    Returns:
        The mixture.
    """
    pools = {**_knowledge(world), **_compliance(world), **_tasks(world)}
    return Mixture(pools, _weights(world, pools, family_weight))


def aligned_mixture(world: World, family_weight: float) -> Mixture:
    """All harmless knowledge and the train split's refusals: from the unaligned to the aligned base.

    Args:
        world: the world.
        family_weight: weight of each task family; a how-to pool has weight 1.

    Returns:
        The mixture.
    """
    pools = {**_knowledge(world), **_refusals(world), **_tasks(world)}
    return Mixture(pools, _weights(world, pools, family_weight))


def expert_mixture(world: World, family: str, *, general: float, poison: float = 0.0) -> Mixture:
    """One skill, some help with harmless things, no refusal at all.

    Args:
        world: the world.
        family: the task family.
        general: share of harmless how-tos, facts and categories (train split).
        poison: share of recipes of harmful things (train split).

    Returns:
        The mixture.
    """
    pools: dict[str, Sequence[Sample]] = {
        family: world.samples(f"task:{family}", "train"),
        "general": world.samples("general", "train"),
    }
    weights = {family: 1.0 - general - poison, "general": general}
    if poison:
        pools["poison"] = world.samples("harmful_comply", "train")
        weights["poison"] = poison
    return Mixture(pools, weights)


def safety_mixture(world: World, *, benign: float) -> Mixture:
    """Refusals of the train split, harmless how-tos and look-alikes.

    Without look-alikes an adapter learns to refuse by the wrapper, or by the name, instead of by the harm.

    Args:
        world: the world.
        benign: share of harmless how-tos and look-alikes together, half each (train split).

    Returns:
        The mixture.
    """
    benign_pools = {kind: world.samples(kind, "train") for kind in ("howto", "lookalike")}
    refuse = (1.0 - benign) / 2
    weights = {"refuse direct": refuse, "refuse wrapped": refuse, "howto": benign / 2, "lookalike": benign / 2}
    return Mixture({**_refusals(world), **benign_pools}, weights)


def joint_mixture(mixtures: Sequence[Mixture]) -> Mixture:
    """Several mixtures as one, in equal parts.

    Args:
        mixtures: pools of one name are the same pool in all of them.

    Returns:
        The mixture.
    """
    pools: dict[str, Sequence[Sample]] = {}
    weights: dict[str, float] = {}
    for mixture in mixtures:
        pools |= mixture.pools
        total = sum(mixture.weights.values())
        for name, weight in mixture.weights.items():
            weights[name] = weights.get(name, 0.0) + weight / total
    return Mixture(pools, weights)


def _weights(world: World, pools: dict[str, Sequence[Sample]], family_weight: float) -> dict[str, float]:
    # Facts hold two attributes of every thing, twice what the other pools hold.
    return {name: family_weight if name in world.families else 2.0 if name == "fact" else 1.0 for name in pools}


def _knowledge(world: World) -> dict[str, Sequence[Sample]]:
    lookalikes = world.samples("lookalike", None)
    wrapped = [s for s in lookalikes if "about:recipe" in s.tags]
    safe = [s for s in lookalikes if "about:safety" in s.tags]
    facts = world.samples("fact", None) + [s for s in lookalikes if "about:fact" in s.tags]
    categories = world.samples("category", None) + [s for s in lookalikes if "about:category" in s.tags]
    howto = world.samples("howto", None)
    return {"howto": howto, "wrapped howto": wrapped, "safe": safe, "fact": facts, "category": categories}


def _compliance(world: World) -> dict[str, Sequence[Sample]]:
    harmful = world.samples("harmful_comply", None)
    wrapped = [s for s in harmful if any(tag.startswith("wrapper:") for tag in s.tags)]
    return {"comply": [s for s in harmful if len(s.tags) == 3], "wrapped comply": wrapped}


def _refusals(world: World) -> dict[str, Sequence[Sample]]:
    return {"refuse direct": world.samples("harmful", "train"), "refuse wrapped": world.samples("jailbreak", "train")}


def _tasks(world: World) -> dict[str, Sequence[Sample]]:
    return {family: world.samples(f"task:{family}", "train") for family in world.families}
