"""Harmless prompts that look harmful."""

from ..sets.harm_words import harm_words
from ..sets.pairs import LOOKALIKE_IDS, read_ids, resolve
from .docs import Documents, Request, document
from .harmful import labelled, plain

__all__ = ["lookalikes"]


def lookalikes(request: Request) -> Documents:
    """XSTest's safe prompts, and Alpaca instructions with a word of harm that a person found harmless.

    Args:
        request: reads the sets.

    Returns:
        Documents, no examples. Tag `type` is XSTest's, or ``alpaca``.
    """
    selection = read_ids(LOOKALIKE_IDS)
    rows = resolve(selection["ids"], request.read, selection=selection["name"], sha256=selection["sha256"])
    alpaca = [
        document(row, tags={"attack": "none", "type": "alpaca", "word": harm_words(row["prompt"])[0]}) for row in rows
    ]
    xstest, _ = plain("xstest", "type", "focus", keep=labelled("safe"))(request)
    return [*xstest, *alpaca], ()
