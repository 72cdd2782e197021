"""A row is a prompt and its answer; splits keep equal prompts together."""

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ..errors import DataError

__all__ = ["Row", "RowLike", "normalise_prompt", "split_rows"]


@dataclass(frozen=True)
class Row:
    """One prompt and the answer whose likelihood is measured.

    Attributes:
        prompt: what the user says.
        response: what the model should answer.
        before: (role, text) of what was said before the prompt, with roles ``system``, ``user`` and ``assistant``; only
            where a source asks for all turns.
    """

    prompt: str
    response: str
    before: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class RowLike(Protocol):
    """Anything with a prompt and a response, such as a sample of the lab."""

    @property
    def prompt(self) -> str:
        """What the user says."""
        ...

    @property
    def response(self) -> str:
        """What the model should answer."""
        ...


AnyRow = TypeVar("AnyRow", bound=RowLike)


def normalise_prompt(prompt: str) -> str:
    """The form in which prompts count as equal: compatibility characters, case and white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def split_rows(rows: Sequence[AnyRow], fractions: Sequence[float], *, seed: int) -> tuple[list[AnyRow], ...]:
    """Split by prompt: rows with equal normalised prompts land in the same part.

    Which part a prompt falls into depends on the set of prompts and the seed, not on the order of rows.

    Args:
        rows: what is split; each part keeps their order.
        fractions: share of the distinct prompts for each part; may sum to less than 1, the rest is left out.
        seed: of the shuffle.

    Returns:
        One list per fraction, disjoint in prompts.

    Raises:
        DataError: fractions are not positive or sum to more than 1, or a part would be empty.
    """
    if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise DataError(f"split fractions {list(fractions)}: expected positive numbers that sum to at most 1")
    prompts = sorted({normalise_prompt(row.prompt) for row in rows})
    random.Random(seed).shuffle(prompts)
    part_of: dict[str, int] = {}
    share, start = 0.0, 0
    for part, fraction in enumerate(fractions):
        share += fraction
        stop = round(share * len(prompts))
        if stop == start:
            raise DataError(
                f"split fractions {list(fractions)} of {len(prompts)} distinct prompts leave part {part} empty; "
                "use more rows or fewer parts"
            )
        part_of.update(dict.fromkeys(prompts[start:stop], part))
        start = stop
    parts: tuple[list[AnyRow], ...] = tuple([] for _ in fractions)
    for row in rows:
        owner = part_of.get(normalise_prompt(row.prompt))
        if owner is not None:
            parts[owner].append(row)
    return parts
