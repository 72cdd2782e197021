"""How much an evaluation has its models read and write, and what that needs; no model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .beginnings import pack_tokens, row_batches
from .loading import LoadedSuite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..lora_utils import BaseModelIndex

__all__ = ["EvaluationCosts", "Workload", "evaluation_costs", "vocabulary_of", "workload"]

_PRODUCTS = 0.5  # of the speed of large matrix products, what a pass reaches
_COPIES = 3  # of the logits while their log-probabilities are taken


@dataclass(frozen=True)
class Workload:
    """What one suite asks of one model.

    Attributes:
        suite: its name.
        prompts: samples.
        answers: that are written, several to a prompt where a suite draws them; 0 where options are scored.
        read: tokens of prompts and of the options that are scored.
        written: tokens of all answers, where each is as long as it may be.
        scored: tokens, at most, of one row whose logits are computed to score them.
    """

    suite: str
    prompts: int
    answers: int
    read: int
    written: int
    scored: int


@dataclass(frozen=True)
class EvaluationCosts:
    """What one model's answers need.

    Attributes:
        weights: bytes of the base.
        logits: bytes, at most, of what is scored of a batch.
        shortest: seconds where nothing is written but options are scored and prompts read.
        longest: seconds where every answer is as long as it may be.
    """

    weights: int
    logits: int
    shortest: float
    longest: float


def workload(
    item: LoadedSuite,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    chat_template: bool,
    batch_size: int,
    spares: bool = False,
) -> Workload:
    """Count what a suite asks, by its own requests.

    Args:
        item: the suite, its samples drawn.
        tokenizer: of the base.
        chat_template: whether prompts go through it.
        batch_size: prompts a batch.
        spares: whether logits are computed at options alone and what a batch begins with is read once, as large
            vocabularies have it (:mod:`.sparing`).

    Returns:
        Counts for one model.
    """

    def encoded(texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return found

    asked = list(item.requests(tokenizer, chat_template=chat_template))
    written = [one for one in asked if one.longest is not None]
    scored = [one for one in asked if one.longest is None]
    read = sum(len(ids) * one.times for ids, one in zip(encoded([one.prompt for one in written]), written, strict=True))
    prompts, options = encoded([one.prompt for one in scored]), encoded([one.option for one in scored])
    # Options that differ in their last token alone are looked up in one pass.
    rows = {pack_tokens([*prompt, *option[:-1]]) for prompt, option in zip(prompts, options, strict=True)} - {b""}
    batches = row_batches(sorted(rows), batch_size) if spares else None
    read += sum(map(len, rows)) // 4 - sum((len(batch.rows) - 1) * batch.shared for batch in batches or ())
    at_once = [
        len(option) if spares and option else len(prompt) + len(option)
        for prompt, option in zip(prompts, options, strict=True)
    ]
    return Workload(
        item.suite.name,
        item.samples,
        sum(one.times for one in written),
        read,
        sum((one.longest or 0) * one.times for one in written),
        max(at_once, default=0),
    )


def vocabulary_of(base: "BaseModelIndex") -> int:
    """Tokens that a base knows; 0 without an embedding."""
    return max((shape.d_in for shape in base.modules.values() if not shape.kind.reads_vectors), default=0)


def evaluation_costs(
    base: "BaseModelIndex",
    workloads: Sequence[Workload],
    *,
    itemsize: float,
    batch_size: int,
    operations: float,
) -> EvaluationCosts:
    """Memory and time of one model.

    Args:
        base: layers of the base.
        workloads: of its suites.
        itemsize: bytes of a number of the weights, a share of one where they are quantised.
        batch_size: prompts a batch.
        operations: floating-point operations a second in that type.

    Returns:
        Estimates: time within a factor of three.
    """
    logits = max((load.scored for load in workloads), default=0) * vocabulary_of(base)
    read, written = sum(load.read for load in workloads), sum(load.written for load in workloads)
    each = 2.0 * base.parameters / (_PRODUCTS * operations)
    return EvaluationCosts(
        round(base.parameters * itemsize), _COPIES * 4 * batch_size * logits, read * each, (read + written) * each
    )
