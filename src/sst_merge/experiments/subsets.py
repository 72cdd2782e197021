"""Which experts are merged: seeded random sets of task families, all different."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from ..worlds.lab.problem import skill_family

__all__ = ["Subset", "poisoned_subsets", "random_subsets"]


@dataclass(frozen=True)
class Subset:
    """One set of experts.

    Attributes:
        number: within its size.
        skills: names of adapters, sorted.
        adapter_seed: of all of them.
    """

    number: int
    skills: tuple[str, ...]
    adapter_seed: int


def random_subsets(
    families: Sequence[str], sizes: Sequence[int], count: int, seeds: Sequence[int], *, purpose: str = "experts"
) -> list[Subset]:
    """Several different sets of every size.

    Args:
        families: to draw from.
        sizes: numbers of experts.
        count: sets per size; of a size that has fewer different ones with the seeds at hand, all of them.
        seeds: of the adapters, taken in turn.
        purpose: decides the draws.

    Returns:
        The sets, size by size.
    """
    found = []
    for n in sizes:
        rng = random.Random(f"sst-merge experiments/{purpose}/{n}")
        seen: set[tuple[tuple[str, ...], int]] = set()
        wanted = min(count, comb(len(families), n) * len(seeds))
        while len(seen) < wanted:
            skills = tuple(sorted(rng.sample(list(families), n)))
            number = len(seen)
            # With all families there is one set only: its adapters' seed makes the difference.
            seed = seeds[number % len(seeds)]
            if (skills, seed) not in seen:
                seen.add((skills, seed))
                found.append(Subset(number, skills, seed))
    return found


def poisoned_subsets(families: Sequence[str], sizes: Sequence[int], count: int, seeds: Sequence[int]) -> list[Subset]:
    """As :func:`random_subsets`, the poisoned expert in every set in place of the clean one of its family.

    Args:
        families: to draw the others from.
        sizes: numbers of experts, the poisoned one counted.
        count: sets per size.
        seeds: of the adapters.

    Returns:
        The sets, size by size.
    """
    clean = [name for name in families if name != skill_family("poisoned")]
    others = random_subsets(clean, [n - 1 for n in sizes], count, seeds, purpose="poisoned")
    return [Subset(s.number, tuple(sorted((*s.skills, "poisoned"))), s.adapter_seed) for s in others]
