"""Suites that ask the prompts of one set as they are."""

from collections.abc import Callable

from ..sets import Row, part_of
from .docs import Builder, Documents, Request, document

__all__ = ["asks_for_refusal", "kept_for_testing", "labelled", "plain"]


def plain(name: str, *tags: str, keep: Callable[[Row], bool] = lambda _: True) -> Builder:
    """A suite of the prompts of one set.

    Args:
        name: of the set.
        *tags: columns of the set that results may be broken down by.
        keep: which rows are asked; all by default.

    Returns:
        How its documents are made: without examples, tag `attack` is "none".
    """

    def build(request: Request) -> Documents:
        rows = [row for row in request.read(name).rows if keep(row)]
        return [document(row, tags={"attack": "none", **{tag: row[tag] for tag in tags}}) for row in rows], ()

    return build


def kept_for_testing(row: Row) -> bool:
    """The half of the prompts that no calibration may use.

    Args:
        row: of any set.

    Returns:
        Whether its prompt is in that half.
    """
    return part_of(row["prompt"]) == "test"


def asks_for_refusal(row: Row) -> bool:
    """HarmBench's behaviours but copyright, which is judged by comparing texts.

    Args:
        row: of HarmBench.

    Returns:
        Whether a refusal is what is wanted.
    """
    return row["kind"] != "copyright"


def labelled(label: str) -> Callable[[Row], bool]:
    """Rows of XSTest with one label.

    Args:
        label: ``safe`` or ``unsafe``.

    Returns:
        The condition.
    """
    return lambda row: row["label"] == label
