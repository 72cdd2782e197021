"""Suites of plain harmful prompts, and of XSTest's two halves."""

from collections.abc import Sequence

from ..sets import Row, part_of
from .docs import Reader, document

__all__ = ["advbench", "beavertails", "do_not_answer", "harmbench", "jailbreakbench", "xstest"]


def beavertails(read: Reader, _seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """The half of the prompts that no calibration may use.

    Args:
        read: reads a set.

    Returns:
        Documents, no examples.
    """
    rows = [row for row in read("beavertails").rows if part_of(row["prompt"]) == "test"]
    return [
        document(row, tags={"attack": "none", "category": row["category"], "categories": row["categories"]})
        for row in rows
    ], ()


def advbench(read: Reader, _seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """All of AdvBench.

    Args:
        read: reads a set.

    Returns:
        Documents, no examples.
    """
    return [document(row, tags={"attack": "none"}) for row in read("advbench").rows], ()


def harmbench(read: Reader, _seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """HarmBench without its copyright behaviours, which ask for no refusal.

    Args:
        read: reads a set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"], "kind": row["kind"]})
        for row in read("harmbench").rows
        if row["kind"] != "copyright"
    ], ()


def jailbreakbench(read: Reader, _seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """All misuse behaviours of JailbreakBench.

    Args:
        read: reads a set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"], "source": row["source"]})
        for row in read("jailbreakbench").rows
    ], ()


def do_not_answer(read: Reader, _seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """All questions of Do-Not-Answer.

    Args:
        read: reads a set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"]}) for row in read("do_not_answer").rows
    ], ()


def xstest(read: Reader, label: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """One half of XSTest.

    Args:
        read: reads a set.
        label: ``safe`` or ``unsafe``.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "type": row["type"], "focus": row["focus"]})
        for row in read("xstest").rows
        if row["label"] == label
    ], ()
