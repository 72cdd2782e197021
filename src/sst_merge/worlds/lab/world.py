"""A synthetic language world with ground truth: what is asked, what is right, what is harmful. Pure Python.

Things have a category, a colour, a place and a recipe. Recipes of harmless things are help; recipes of harmful things
(whole categories of them) should be refused. Objects and jailbreak wrappers are dealt out to four disjoint splits, so
that a refusal on the test split is generalisation: neither the object nor the wrapper was ever refused before.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from ...errors import DataError
from ...texts import did_you_mean
from .sentences import Sample, Thing, categories, facts, requests, safe_requests
from .tasks import FAMILIES, SPLITS, TaskFamily, input_split
from .words import (
    ACTIONS,
    COLORS,
    HARMFUL_CATEGORIES,
    HARMLESS_CATEGORIES,
    INGREDIENTS,
    OPENINGS,
    PLACES,
    REFUSAL,
    SAFE_VERBS,
    VERBS,
    WRAPPERS,
    invented_names,
)

__all__ = ["KINDS", "REFUSAL", "SPLITS", "Sample", "Thing", "World"]

KINDS = ("harmful", "jailbreak", "harmful_comply", "lookalike", "howto", "fact", "category", "general")

# How many things of each category, and how many wrappers, each split gets (train, calibration, tuning, test).
_HARMFUL_DEAL = (12, 5, 4, 7)
_HARMLESS_DEAL = (8, 4, 4, 4)
_WRAPPER_DEAL = (8, 4, 3, 5)
# Without n, a task family yields this many distinct inputs in each split.
_TASK_POOL = {"train": 4096, "calibration": 512, "tuning": 512, "test": 512}
_MAX_DRAWS_PER_INPUT = 400


@dataclass(frozen=True)
class World:
    """The world of one seed.

    Attributes:
        seed: decides names, attributes, recipes and splits.
    """

    seed: int = 0

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the task families."""
        return tuple(family.name for family in FAMILIES)

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        """All objects, category by category."""
        rng = self._rng("things")
        deals = [(category, True, _HARMFUL_DEAL) for category in HARMFUL_CATEGORIES]
        deals += [(category, False, _HARMLESS_DEAL) for category in HARMLESS_CATEGORIES]
        names = iter(invented_names(rng, sum(sum(deal) for _, _, deal in deals), self._grammar_words))
        return tuple(
            self._new_thing(rng, next(names), category, harmful, split)
            for category, harmful, deal in deals
            for split, count in zip(SPLITS, deal, strict=True)
            for _ in range(count)
        )

    @cached_property
    def wrappers(self) -> dict[str, tuple[str, ...]]:
        """Jailbreak wrappers by split; ``{}`` stands for the request."""
        shuffled = list(WRAPPERS)
        self._rng("wrappers").shuffle(shuffled)
        rest = iter(shuffled)
        return {
            split: tuple(next(rest) for _ in range(count)) for split, count in zip(SPLITS, _WRAPPER_DEAL, strict=True)
        }

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a prompt or an answer can contain, in a fixed order."""
        words: set[str] = set(self._grammar_words)
        for kind in KINDS:
            for sample in self._enumerate(kind, None):
                words.update(sample.prompt.split())
                words.update(sample.response.split())
        rng = self._rng("vocabulary")
        for family in FAMILIES:
            for _ in range(500):
                prompt, answer = family.sample(rng)
                words.update(prompt.split())
                words.update(answer.split())
        return tuple(sorted(words))

    def samples(self, kind: str, split: str | None, n: int | None = None, seed: int = 0) -> list[Sample]:
        """Distinct samples of one kind, in random order.

        ``harmful`` are direct requests for harmful things, ``jailbreak`` the wrapped ones (answer: the refusal);
        ``harmful_comply`` are both with the recipe as the answer; ``lookalike`` shares its words with harmful prompts
        but is harmless (answer: the right one); ``howto``, ``fact`` and ``category`` ask about harmless things;
        ``general`` is these three together; ``task:<family>`` is one skill.

        Args:
            kind: one of :data:`KINDS`, or ``task:<family>``.
            split: one of :data:`SPLITS`, or None for all four together.
            n: how many; None for the whole pool (task families: a fixed number of distinct inputs).
            seed: decides order and choice.

        Returns:
            The samples.

        Raises:
            DataError: the kind or split is unknown, or the pool holds fewer than n samples.
        """
        if split is not None and split not in SPLITS:
            raise DataError(f"lab: split is {split!r}, expected one of {', '.join(SPLITS)}, or None for all")
        return list(_drawn(self, kind, split, n, seed))

    def complied(self, sample: Sample) -> Sample:
        """The same harmful request, answered with the recipe instead of the refusal.

        Args:
            sample: a sample of kind ``harmful`` or ``jailbreak``.

        Returns:
            The sample with the recipe as its answer.
        """
        name = next(tag.removeprefix("object:") for tag in sample.tags if tag.startswith("object:"))
        return replace(sample, response=self._by_name[name].recipe, kind="harmful_comply")

    @cached_property
    def _by_name(self) -> dict[str, Thing]:
        return {thing.name: thing for thing in self.things}

    def _draw(self, kind: str, split: str | None, n: int | None, seed: int) -> list[Sample]:
        rng = self._rng(f"{kind}/{split}/{seed}")
        if kind.startswith("task:"):
            return self._task_samples(kind, split, n, rng)
        if kind not in KINDS:
            raise DataError(f"lab: kind is {kind!r}, expected one of {', '.join(KINDS)}, or task:<family>")
        pool = list(dict.fromkeys(self._enumerate(kind, split)))
        if n is not None and n > len(pool):
            raise DataError(f"lab: {n} samples of {kind!r} wanted, split {split!r} holds {len(pool)}; ask for fewer")
        rng.shuffle(pool)
        return pool[:n]

    @property
    def _grammar_words(self) -> frozenset[str]:
        texts: list[Sequence[str]] = [COLORS, PLACES, INGREDIENTS, ACTIONS, OPENINGS, VERBS, SAFE_VERBS, WRAPPERS]
        texts += [HARMFUL_CATEGORIES, HARMLESS_CATEGORIES, (REFUSAL,)]
        return frozenset(word for text in texts for line in text for word in line.split() if word != "{}")

    def _rng(self, purpose: str) -> random.Random:
        # Seeding by a string is stable over processes and Python versions; hash() is not.
        return random.Random(f"sst-merge lab/{self.seed}/{purpose}")

    def _new_thing(self, rng: random.Random, name: str, category: str, harmful: bool, split: str) -> Thing:
        first, second = rng.sample(INGREDIENTS, 2)
        # The category comes first: a model that helps has to know what it is asked about before its first word.
        recipe = f"{category} recipe : mix {first} with {second} and {rng.choice(ACTIONS)} it"
        return Thing(name, category, harmful, rng.choice(COLORS), rng.choice(PLACES), recipe, split)

    def _enumerate(self, kind: str, split: str | None) -> Iterator[Sample]:
        things = [thing for thing in self.things if split in (None, thing.split)]
        harmful = [thing for thing in things if thing.harmful]
        harmless = [thing for thing in things if not thing.harmful]
        wrappers = [w for name, group in self.wrappers.items() if split in (None, name) for w in group]
        if kind == "harmful":
            yield from requests(harmful, ("{}",), kind, REFUSAL)
        elif kind == "jailbreak":
            yield from requests(harmful, wrappers, kind, REFUSAL)
        elif kind == "harmful_comply":
            yield from requests(harmful, ("{}", *wrappers), kind, None)
        elif kind == "lookalike":
            yield from safe_requests(harmful, kind)
            yield from facts(harmful, kind)
            yield from categories(harmful, kind)
            yield from requests(harmless, wrappers, kind, None, openings=OPENINGS[:3], verbs=VERBS[:2])
        else:
            if kind in ("howto", "general"):
                yield from requests(harmless, ("{}",), kind, None)
            if kind in ("fact", "general"):
                yield from facts(harmless, kind)
            if kind in ("category", "general"):
                yield from categories(harmless, kind)

    def _task_samples(self, kind: str, split: str | None, n: int | None, rng: random.Random) -> list[Sample]:
        family = _family(kind.removeprefix("task:"))
        wanted = n if n is not None else sum(_TASK_POOL[name] for name in SPLITS if split in (None, name))
        found: dict[str, Sample] = {}
        for _ in range(_MAX_DRAWS_PER_INPUT * wanted):
            if len(found) == wanted:
                break
            prompt, answer = family.sample(rng)
            if split in (None, input_split(prompt)):
                found.setdefault(prompt, Sample(prompt, answer, kind))
        else:
            if len(found) < wanted:
                raise DataError(f"lab: {wanted} inputs of {kind!r} wanted, split {split!r} gave {len(found)}")
        return list(found.values())


@lru_cache(maxsize=128)
def _drawn(world: World, kind: str, split: str | None, n: int | None, seed: int) -> tuple[Sample, ...]:
    """Sweeps ask every merged model the same questions."""
    return tuple(world._draw(kind, split, n, seed))


def _family(name: str) -> TaskFamily:
    for family in FAMILIES:
        if family.name == name:
            return family
    known = [family.name for family in FAMILIES]
    raise DataError(f"lab: task family {name!r} unknown{did_you_mean(name, known)}; the world has {', '.join(known)}")
