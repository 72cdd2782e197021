"""What decided the numbers beside the base: chat template, suites, versions."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .answers import digest
from .loading import LoadedSuite

__all__ = ["library_versions", "suite_facts", "template_fingerprint"]

_LIBRARIES = ("lm_eval", "transformers", "peft", "tokenizers", "datasets", "accelerate", "scikit-learn", "vllm")


def template_fingerprint(tokenizer: Any, used: bool) -> Mapping[str, Any]:
    """The chat template's SHA-256, and whether prompts go through it."""
    return {"used": used, "sha256": digest(tokenizer.chat_template) if used else None}


def suite_facts(item: LoadedSuite) -> dict[str, Any]:
    """What was asked of a suite, and how: numbers of samples, hashes of data, settings of generation."""
    return {
        "samples": item.samples,
        "attempts": item.attempts,
        "left_out": item.left_out,
        "rows_sha256": item.rows_hash,
        "sets_sha256": dict(item.sets),
        "decoding": dict(item.decoding),
        "score": item.suite.score,
    }


def library_versions() -> dict[str, str]:
    """Versions of all that computes, as far as it is installed."""
    from ..merging.report import package_versions

    found = package_versions()
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
