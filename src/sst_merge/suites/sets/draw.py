"""Which rows are used: seeded samples that nest, and a split by prompt that all sets share."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from ...data_loader import normalise_prompt
from .spec import Row

__all__ = ["draw", "part_of", "shuffled"]


def draw(rows: Sequence[Row], samples: int | None, *, seed: int) -> list[Row]:
    """Draw rows without replacement.

    A row's place in the draw depends on its id and the seed alone: a larger draw contains the smaller one, and rows
    that come or go leave the others' places as they are.
    """
    if samples is None or samples >= len(rows):
        return list(rows)
    chosen = {row["id"] for row in shuffled(rows, seed=seed)[:samples]}
    return [row for row in rows if row["id"] in chosen]


def shuffled(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The order in which rows are drawn."""
    return sorted(rows, key=lambda row: _number(f"draw {seed}: {row['id']}"))


def part_of(prompt: str) -> Literal["calibration", "test"]:
    """Whether a prompt may be calibrated on, or is kept for testing: half of all prompts each, by their words alone.

    Equal prompts (up to case and white space) of different sets land in the same part.
    """
    return "calibration" if _number(f"part: {normalise_prompt(prompt)}") % 2 else "test"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
