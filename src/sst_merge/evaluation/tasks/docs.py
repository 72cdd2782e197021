"""Where every task gets its documents: the suite's rows, drawn with a seed, in the columns that all tasks share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ..sets import EvalSet, draw, load_set, without
from ..sets.load import Source
from ..sets.spec import Row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Builder", "Reader", "document", "suite_docs"]

# Reads a set by name, prompts that were calibrated on left out.
Reader = Callable[[str], EvalSet]
# Documents of the test, and those that examples are taken from.
Builder = Callable[[Reader, int], tuple[Sequence[Row], Sequence[Row]]]


def document(
    row: Row, *, prompt: str | None = None, tags: Mapping[str, str], prefill: str = "", **columns: str
) -> dict[str, str]:
    """A document in the columns that all tasks share.

    Args:
        row: of a set; gives the id.
        prompt: what the user says; the row's own by default.
        tags: what results may be broken down by.
        prefill: words put into the answer's mouth.
        **columns: what else the task needs.

    Returns:
        Column → text; tags are a JSON object.
    """
    return {
        "id": row["id"],
        "prompt": row["prompt"] if prompt is None else prompt,
        "tags": json.dumps(dict(tags), ensure_ascii=False, sort_keys=True),
        "prefill": prefill,
        **columns,
    }


def suite_docs(
    *,
    suite: str,
    samples: int | None = None,
    seed: int = 0,
    source: Source = "auto",
    root: str | Path | None = None,
    exclude: Sequence[str] = (),
    **_metadata: Any,
) -> "dict[str, Dataset]":
    """Documents of one suite; lm-evaluation-harness calls this with the task manager's metadata.

    Args:
        suite: name of the suite.
        samples: draw at most so many; all of them by default.
        seed: of the draw.
        source: ``folder``, ``hub`` or ``auto``.
        root: data folder in place of the one that SST_MERGE_DATA names.
        exclude: prompts that were calibrated on; rows with one of them are left out of every set.
        **_metadata: what else the harness passes along, such as the task's version.

    Returns:
        Split → documents: ``test``, and ``examples`` for tasks that show some.

    Raises:
        DataError: a set is missing, or nothing is left of it.
    """
    from datasets import Dataset

    from .builders import BUILDERS

    folder = None if root is None else Path(root)
    if samples is not None and samples < 1:
        raise DataError(f"suite {suite!r}: samples = {samples}, expected at least 1")

    def read(name: str) -> EvalSet:
        found = load_set(name, folder, source)
        if not exclude:
            return found
        return EvalSet(name, tuple(without(found.rows, exclude)), found.sha256, found.origin, found.licence)

    test, examples = BUILDERS[suite](read, seed)
    drawn = draw(test, samples, seed=seed)
    if not drawn:
        raise DataError(f"suite {suite!r}: no row is left after leaving out {len(exclude)} calibration prompts")
    splits = {"test": Dataset.from_list([dict(row) for row in drawn])}
    if examples:
        splits["examples"] = Dataset.from_list([dict(row) for row in examples])
    return splits
