"""Answers of several models to the same prompts, side by side, for people to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["AnswerCard", "AnswerGroup", "SaidBy"]

Verdict = Literal["good", "bad", "neither"]


@dataclass(frozen=True, kw_only=True)
class SaidBy:
    """What one model said.

    Attributes:
        model: its name.
        text: the answer.
        verdict: whether that is what it should do; ``neither`` where it said nothing that makes sense.
        word: the verdict in a word, such as ``refused``.
    """

    model: str
    text: str
    verdict: Verdict
    word: str


@dataclass(frozen=True, kw_only=True)
class AnswerCard:
    """One prompt with every model's answer.

    Attributes:
        prompt: as it was asked.
        said: one entry per model, in the same order on every card.
    """

    prompt: str
    said: Sequence[SaidBy]


@dataclass(frozen=True, kw_only=True)
class AnswerGroup:
    """Prompts of one kind.

    Attributes:
        caption: what they are and what is right.
        cards: the prompts.
    """

    caption: str
    cards: Sequence[AnswerCard]
