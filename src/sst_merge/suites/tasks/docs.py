"""Where every task gets its documents: the suite's rows, drawn with a seed, in the columns that all tasks share."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sets import EvalSet, load_set
from ..sets.load import Source
from ..sets.spec import Row
from .selection import select_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Builder", "Documents", "Request", "document", "suite_docs"]


@dataclass(frozen=True)
class Request:
    """What the documents of a suite depend on, beside the suite.

    Attributes:
        read: reads a set by name.
        seed: of whatever is drawn.
        driftcheck: file or hub id of the original DRIFTCHECK prompts, for those who have them.
    """

    read: Callable[[str], EvalSet]
    seed: int = 0
    driftcheck: str | None = None


# Documents of the test, and those that worked examples are taken from.
Documents = tuple[Sequence[Row], Sequence[Row]]
Builder = Callable[[Request], Documents]


def document(
    row: Row, *, prompt: str | None = None, tags: Mapping[str, str], prefill: str = "", **columns: str
) -> dict[str, str]:
    """A document in the columns that all tasks share.

    Args:
        row: of a set; gives the id, and the words that prompts left out are compared with.
        prompt: what the user says; the row's own by default.
        tags: what results may be broken down by.
        prefill: words put into the answer's mouth.
        **columns: what else the task needs.

    Returns:
        Column → text; tags are a JSON object.
    """
    return {
        "id": row["id"],
        "asked": row["prompt"],
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
    driftcheck: str | None = None,
    **_metadata: Any,
) -> "dict[str, Dataset]":
    """Documents of one suite; lm-evaluation-harness calls this with the task manager's metadata.

    Args:
        suite: name of the suite.
        samples: draw at most so many; all of them by default.
        seed: of the draw.
        source: ``folder``, ``hub`` or ``auto``.
        root: data folder in place of the one that SST_MERGE_DATA names.
        exclude: prompts that were calibrated on; documents that ask one of them, wrapped or not, are left out, and
            pairs of which either half does.
        driftcheck: file or hub id of the original DRIFTCHECK prompts in place of the stand-in.
        **_metadata: what else the harness passes along, such as the task's version.

    Returns:
        Split → documents: ``test``, what :func:`.selection.select_rows` left out, and ``examples`` for tasks that show
        some.

    Raises:
        DataError: a set is missing, or nothing is left of it.
    """
    from .builders import BUILDERS

    folder = None if root is None else Path(root)
    request = Request(lambda name: load_set(name, folder, source), seed, driftcheck)
    test, examples = BUILDERS[suite](request)
    splits = select_rows(test, samples, suite=suite, seed=seed, exclude=exclude)
    if examples:
        from datasets import Dataset

        splits["examples"] = Dataset.from_list([dict(row) for row in examples])
    return splits
