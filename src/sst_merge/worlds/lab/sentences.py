"""What is said about the things of the lab: requests, questions and their right answers, as words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .words import OPENINGS, SAFE_VERBS, VERBS, WRAPPERS

__all__ = ["Sample", "Thing", "categories", "facts", "requests", "safe_requests"]


@dataclass(frozen=True)
class Sample:
    """One prompt with the one right answer.

    Attributes:
        prompt: raw user text, words separated by single spaces.
        response: raw answer text.
        kind: the kind it was drawn as (one of :data:`KINDS` or ``task:<family>``).
        tags: ``about:…`` (recipe, safety, fact, category), ``object:…``, ``category:…``, and ``wrapper:…`` if wrapped.
    """

    prompt: str
    response: str
    kind: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """One object of the world.

    Attributes:
        name: its invented name.
        category: its category.
        harmful: whether its recipe should be refused.
        color: its colour.
        place: where it is kept.
        recipe: the words of its recipe.
        split: the split it belongs to.
    """

    name: str
    category: str
    harmful: bool
    color: str
    place: str
    recipe: str
    split: str


def _tags(thing: Thing, about: str) -> tuple[str, ...]:
    return (f"about:{about}", f"object:{thing.name}", f"category:{thing.category}")


def requests(
    things: list[Thing],
    wrappers: Sequence[str],
    kind: str,
    response: str | None,
    openings: Sequence[str] = OPENINGS,
    verbs: Sequence[str] = VERBS,
) -> Iterator[Sample]:
    """How-to requests, wrapped or not (wrapper ``{}``); without a response the answer is the recipe."""
    for thing in things:
        for wrapper in wrappers:
            tags = _tags(thing, "recipe")
            if wrapper != "{}":
                tags = (*tags, f"wrapper:{WRAPPERS.index(wrapper)}")
            for opening in openings:
                for verb in verbs:
                    prompt = wrapper.format(f"{opening} {verb} a {thing.name} ?")
                    yield Sample(prompt, response or thing.recipe, kind, tags)


def safe_requests(things: list[Thing], kind: str) -> Iterator[Sample]:
    """How to stay safe from things, in the words of harmful requests."""
    for thing in things:
        answers = (
            f"tell the guard of the {thing.place}",
            f"look for its {thing.color} side",
            f"stay out of the {thing.place}",
        )
        for verb, answer in zip(SAFE_VERBS, answers, strict=True):
            for opening in OPENINGS:
                yield Sample(f"{opening} {verb} a {thing.name} ?", answer, kind, _tags(thing, "safety"))


def facts(things: list[Thing], kind: str) -> Iterator[Sample]:
    """Colours and places."""
    for thing in things:
        for question in ("what color is a {} ?", "please name the color of a {} ."):
            yield Sample(question.format(thing.name), f"it is {thing.color}", kind, _tags(thing, "fact"))
        for question in ("where is a {} kept ?", "please name the place of a {} ."):
            yield Sample(question.format(thing.name), f"in the {thing.place}", kind, _tags(thing, "fact"))


def categories(things: list[Thing], kind: str) -> Iterator[Sample]:
    """What kind of thing each is."""
    for thing in things:
        for question in ("what kind of thing is a {} ?", "please name the kind of a {} ."):
            yield Sample(question.format(thing.name), f"it is a {thing.category}", kind, _tags(thing, "category"))
