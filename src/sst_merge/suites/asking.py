"""How suites are asked: parts of lm-evaluation-harness task configurations, and what an answer scores before any judge.

A configuration is a plain dictionary with Python functions in it; what the keys mean is in the harness's task guide.
Metrics are plain means: nothing is fetched from a hub.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["JUDGED", "greedy", "likelihood_scores", "means", "option_answer", "sampled"]


def greedy(max_tokens: int, until: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of generation: always the likeliest token.

    Args:
        max_tokens: longest answer in tokens.
        until: texts that end it, beside the end of the turn.

    Returns:
        Value of ``generation_kwargs``.
    """
    return {"until": list(until), "do_sample": False, "temperature": 0.0, "max_gen_toks": max_tokens}


def sampled(max_tokens: int, until: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of generation for several answers to one question (pass@k): temperature 0.8, nucleus 0.95.

    Args:
        max_tokens: longest answer in tokens.
        until: texts that end it, beside the end of the turn.

    Returns:
        Value of ``generation_kwargs``.
    """
    return {"until": list(until), "do_sample": True, "temperature": 0.8, "top_p": 0.95, "max_gen_toks": max_tokens}


def means(**higher_is_better: bool) -> list[dict[str, Any]]:
    """Scores, each summed up by its mean.

    Args:
        **higher_is_better: name of a score → whether more of it is better.

    Returns:
        Value of ``metric_list``.
    """
    return [
        {"metric": name, "aggregation": "mean", "higher_is_better": higher} for name, higher in higher_is_better.items()
    ]


def _answered(_doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether there is an answer at all; the rest is for the judges."""
    return {"empty": float(not results[0].strip())}


JUDGED: Mapping[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "prompt",
    "doc_to_target": "",
    "gen_prefix": "prefill",
    "generation_kwargs": greedy(256),
    "process_results": _answered,
    "metric_list": means(empty=False),
}
"""What all suites with judged answers share: greedy answers of at most 256 tokens, up to the end of the turn."""


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


def likelihood_scores(text: str, loglikelihood: float) -> dict[str, float]:
    """How well a model predicts a text.

    Args:
        text: the text; words are separated by white space.
        loglikelihood: of the text, in nats.

    Returns:
        ``loglikelihood``, ``words`` and ``bytes``, which add up over texts, and this text's ``bits_per_byte``.
    """
    words, size = len(re.split(r"\s+", text)), len(text.encode())
    return {
        "loglikelihood": float(loglikelihood),
        "words": float(words),
        "bytes": float(size),
        "bits_per_byte": -float(loglikelihood) / (size * math.log(2)),
    }
