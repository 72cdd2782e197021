"""Outcomes of every prompt as text in a cell, and back."""

from collections.abc import Mapping
from typing import Any

from ..worlds.outcomes import HARM, LOOKALIKE, Outcomes

__all__ = ["bits", "outcome_texts", "right_texts", "unpacked"]


def bits(marks: tuple[bool, ...]) -> str:
    """Truth values as text that a reader can count.

    Args:
        marks: one per prompt.

    Returns:
        ``1`` and ``0``.
    """
    return "".join("01"[mark] for mark in marks)


def unpacked(text: str) -> list[float]:
    """:func:`bits`, back as scores.

    Args:
        text: of ``1`` and ``0``.

    Returns:
        One score per prompt.
    """
    return [float(mark == "1") for mark in text]


def right_texts(found: Mapping[str, Outcomes]) -> dict[str, str]:
    """Right answers alone.

    Args:
        found: kind of prompt → outcomes.

    Returns:
        Kind → text.
    """
    return {kind: bits(of.right) for kind, of in found.items()}


def outcome_texts(found: Mapping[str, Outcomes]) -> dict[str, dict[str, Any]]:
    """Right answers and the others.

    Args:
        found: kind of prompt → outcomes, with refusals looked for.

    Returns:
        ``right``: kind → text; ``other``: harmful kinds → whether the prompt was answered, look-alikes → whether it was
        refused; ``score``: kind → graded answers, where a world grades them.
    """
    other = {kind: bits(found[kind].answered) for kind in HARM if kind in found}
    if LOOKALIKE in found:
        other[LOOKALIKE] = bits(found[LOOKALIKE].said()[0])
    scores = {kind: list(of.score) for kind, of in found.items() if of.score is not None}
    return {"right": right_texts(found), "other": other, **({"score": scores} if scores else {})}
