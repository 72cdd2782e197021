"""Which rows of a suite are asked: those that no merge was calibrated on, drawn with a seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data_loader import normalise_prompt
from ..errors import DataError
from .sets.draw import draw

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["LEFT_OUT", "select_rows"]

LEFT_OUT = "left_out"
"""Split of a task's documents that holds the ids of rows left out as calibration prompts; absent where none is."""

# What the row asks, and what the other half of its pair asks: a pair is left out whole, so that halves stay pairs.
_COMPARED = ("asked", "partner")


def select_rows(
    rows: Sequence[Mapping[str, Any]], samples: int | None, *, suite: str, seed: int, exclude: Sequence[str]
) -> "dict[str, Dataset]":
    """Leave out what was calibrated on, then draw.

    Args:
        rows: all rows of a suite, with unique `id`; `asked` holds the words without any wrapper, and `partner`, where
            it is there, those of the row's other half.
        samples: draw at most so many; all of them by default.
        suite: named in errors.
        seed: of the draw.
        exclude: prompts that were calibrated on; they count as equal up to case, white space and compatibility forms.

    Returns:
        Split → documents: ``test``, and :data:`LEFT_OUT` where something was left out.

    Raises:
        DataError: fewer than one sample is asked for, or no row is left.
    """
    from datasets import Dataset

    if samples is not None and samples < 1:
        raise DataError(f"suite {suite!r}: samples = {samples}, expected at least 1")
    known = {normalise_prompt(prompt) for prompt in exclude}
    hit = {row["id"] for row in rows if any(normalise_prompt(row[c]) in known for c in _COMPARED if c in row)}
    drawn = draw([row for row in rows if row["id"] not in hit], samples, seed=seed)
    if not drawn:
        raise DataError(
            f"suite {suite!r}: no row is left after leaving out {len(known)} calibration prompts, which are "
            f"{len(hit)} of its {len(rows)} rows; evaluate on other prompts than the merge was calibrated on"
        )
    splits = {"test": Dataset.from_list([dict(row) for row in drawn])}
    if hit:
        splits[LEFT_OUT] = Dataset.from_list([{"id": row["id"]} for row in rows if row["id"] in hit])
    return splits
