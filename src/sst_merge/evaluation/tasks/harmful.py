"""Suites of plain harmful prompts, and of XSTest's two halves."""

from ..sets import part_of
from .docs import Documents, Request, document

__all__ = ["advbench", "beavertails", "do_not_answer", "harmbench", "jailbreakbench", "xstest"]


def beavertails(request: Request) -> Documents:
    """The half of the prompts that no calibration may use.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    rows = [row for row in request.read("beavertails").rows if part_of(row["prompt"]) == "test"]
    return [
        document(row, tags={"attack": "none", "category": row["category"], "categories": row["categories"]})
        for row in rows
    ], ()


def advbench(request: Request) -> Documents:
    """All of AdvBench.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    return [document(row, tags={"attack": "none"}) for row in request.read("advbench").rows], ()


def harmbench(request: Request) -> Documents:
    """HarmBench without its copyright behaviours, which ask for no refusal.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"], "kind": row["kind"]})
        for row in request.read("harmbench").rows
        if row["kind"] != "copyright"
    ], ()


def jailbreakbench(request: Request) -> Documents:
    """All misuse behaviours of JailbreakBench.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"], "source": row["source"]})
        for row in request.read("jailbreakbench").rows
    ], ()


def do_not_answer(request: Request) -> Documents:
    """All questions of Do-Not-Answer.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    return [
        document(row, tags={"attack": "none", "category": row["category"]})
        for row in request.read("do_not_answer").rows
    ], ()


def xstest(request: Request, label: str) -> Documents:
    """One half of XSTest.

    Args:
        request: reads the set.
        label: ``safe`` or ``unsafe``.

    Returns:
        Documents, no examples. Tags `type` and `kind` are the same here.
    """
    return [
        document(row, tags={"attack": "none", "type": row["type"], "kind": row["type"], "focus": row["focus"]})
        for row in request.read("xstest").rows
        if row["label"] == label
    ], ()
