"""What a sample's answer scores before any judge sees it. Metrics are plain means: nothing is fetched from a hub."""

from collections.abc import Mapping, Sequence

__all__ = ["judged"]


def judged(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Suites whose answers go to judges: only whether there is an answer.

    Args:
        doc: the document.
        results: the one answer.

    Returns:
        ``empty``: 1 where the model said nothing.
    """
    return {"empty": float(not results[0].strip())}
