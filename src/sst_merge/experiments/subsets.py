"""Which experts are merged: seeded random sets of them, all different."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from ..errors import DataError

__all__ = ["POISONED", "Subset", "plain_experts", "poisoned_subsets", "random_subsets"]

POISONED = "poisoned"
"""An expert whose training data held harmful answers, on the aligned base."""


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
        families: experts to draw from.
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


def plain_experts(experts: Mapping[str, str]) -> tuple[str, ...]:
    """The experts that are no variants of another one, as the poisoned expert is.

    Args:
        experts: expert → its task.

    Returns:
        Those that have their task's name.
    """
    return tuple(name for name, task in experts.items() if name == task)


def poisoned_subsets(
    families: Sequence[str], experts: Mapping[str, str], sizes: Sequence[int], count: int, seeds: Sequence[int]
) -> list[Subset]:
    """As :func:`random_subsets`, the poisoned expert in every set in place of the clean one of its task.

    Args:
        families: to draw the others from.
        experts: every expert of the world → its task.
        sizes: numbers of experts, the poisoned one counted; without sizes there are no sets.
        count: sets per size.
        seeds: of the adapters.

    Returns:
        The sets, size by size.

    Raises:
        DataError: sets are asked for, and the world has no poisoned expert.
    """
    if not sizes:
        return []
    if POISONED not in experts:
        raise DataError(
            f"poisoned_sizes: the world has no expert {POISONED!r}, only {', '.join(experts)}; ask for none"
        )
    clean = [name for name in families if name != experts[POISONED]]
    others = random_subsets(clean, [n - 1 for n in sizes], count, seeds, purpose="poisoned")
    return [Subset(s.number, tuple(sorted((*s.skills, POISONED))), s.adapter_seed) for s in others]
