"""What a sample's answer scores before any judge sees it. Metrics are plain means: nothing is fetched from a hub."""

import math
import re
from collections.abc import Mapping, Sequence

__all__ = ["final_number", "judged", "likelihood_scores", "number_answer", "option_answer", "text_likelihood"]

_BEHIND_MARK = re.compile(r"#### (-?[0-9.,]+)")
_ANYWHERE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def judged(_doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Suites whose answers go to judges: only whether there is an answer.

    Args:
        results: the one answer.

    Returns:
        ``empty``: 1 where the model said nothing.
    """
    return {"empty": float(not results[0].strip())}


def option_answer(doc: Mapping[str, str], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Options A, B, C, … by log-likelihood.

    Args:
        doc: the document; `answer` is the right letter.
        results: log-likelihood of each option, and whether it is what the model would have said.

    Returns:
        ``correct``: 1 where the right option is the likeliest, the first of equals counting.
        ``probability``: of the right option among all.
    """
    likelihoods = [likelihood for likelihood, _ in results]
    right = ord(doc["answer"]) - ord("A")
    top = max(likelihoods)
    shares = [math.exp(likelihood - top) for likelihood in likelihoods]
    return {"correct": float(likelihoods.index(top) == right), "probability": shares[right] / sum(shares)}


def number_answer(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Word problems by their final number, as lm-evaluation-harness's ``gsm8k`` scores them.

    Args:
        doc: the document; `answer` ends with the number behind ``####``.
        results: the one answer.

    Returns:
        ``correct``: the number behind ``####`` is right (strict match). ``correct_flexible``: the last number is.
    """
    gold = final_number(doc["answer"], strict=True)
    return {
        "correct": float(final_number(results[0], strict=True) == gold),
        "correct_flexible": float(final_number(results[0], strict=False) == gold),
    }


def final_number(text: str, *, strict: bool) -> str | None:
    """The number that an answer comes to.

    Args:
        text: the answer.
        strict: only the first number behind ``####`` counts; otherwise the last one anywhere.

    Returns:
        Its digits without commas, dollar signs and final full stop, or None.
    """
    found = _BEHIND_MARK.findall(text) if strict else _ANYWHERE.findall(text)
    if not found:
        return None
    number: str = found[0 if strict else -1]
    return number.strip().replace(",", "").replace("$", "").removesuffix(".")


def text_likelihood(doc: Mapping[str, str], results: Sequence[float]) -> dict[str, float]:
    """How well a model predicts a text.

    Args:
        doc: the document; words and bytes are counted in `page`, before its white space is mended.
        results: its log-likelihood.

    Returns:
        ``loglikelihood``, ``words`` and ``bytes``, which add up over documents, and this document's ``bits_per_byte``.
    """
    return likelihood_scores(doc["page"], results[0])


def likelihood_scores(text: str, loglikelihood: float) -> dict[str, float]:
    """A text's likelihood beside what it is a likelihood of.

    Args:
        text: the text.
        loglikelihood: of the text, in nats.

    Returns:
        As :func:`text_likelihood`.
    """
    words, size = len(re.split(r"\s+", text)), len(text.encode())
    return {
        "loglikelihood": float(loglikelihood),
        "words": float(words),
        "bytes": float(size),
        "bits_per_byte": -float(loglikelihood) / (size * math.log(2)),
    }
