"""How much an evaluation has its models read and write, and what that needs; no model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .loading import LoadedSuite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..lora_utils import BaseModelIndex

__all__ = ["EvaluationCosts", "Workload", "evaluation_costs", "workload"]

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
        scored: tokens of the longest text of which every position is scored.
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
        logits: bytes, at most, of a batch whose every position is scored.
        shortest: seconds where nothing is written but options are scored and prompts read.
        longest: seconds where every answer is as long as it may be.
    """

    weights: int
    logits: int
    shortest: float
    longest: float


def workload(item: LoadedSuite, tokenizer: "PreTrainedTokenizerBase", *, chat_template: bool) -> Workload:
    """Count what a suite asks, by its own requests.

    Args:
        item: the suite, its samples drawn.
        tokenizer: of the base.
        chat_template: whether prompts go through it.

    Returns:
        Counts for one model.
    """

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []

    written: list[tuple[str, int, int]] = []
    scored: dict[tuple[str, str], None] = {}
    for request in item.requests(tokenizer, chat_template=chat_template):
        if request.longest is None:
            scored[request.prompt, request.option] = None
        else:
            written.append((request.prompt, request.longest, request.times))
    sizes = count([prompt for prompt, _, _ in written])
    read = sum(size * times for size, (_, _, times) in zip(sizes, written, strict=True))
    options = count([option for _, option in scored])
    prompts = count([prompt for prompt, _ in scored])
    alone: set[str] = set()
    longest = 0
    for (prompt, _), before, size in zip(scored, prompts, options, strict=True):
        longest = max(longest, before + size)
        # Options of one token are looked up in one pass over their prompt.
        if size > 1 or prompt not in alone:
            read += before + size
        if size == 1:
            alone.add(prompt)
    return Workload(
        item.suite.name,
        item.samples,
        sum(times for _, _, times in written),
        read,
        sum(most * times for _, most, times in written),
        longest,
    )


def evaluation_costs(
    base: "BaseModelIndex",
    workloads: Sequence[Workload],
    *,
    itemsize: int,
    batch_size: int,
    operations: float,
) -> EvaluationCosts:
    """Memory and time of one model.

    Args:
        base: layers of the base.
        workloads: of its suites.
        itemsize: bytes of a number of the weights.
        batch_size: prompts a batch.
        operations: floating-point operations a second in that type.

    Returns:
        Estimates: time within a factor of three.
    """
    vocabularies = [shape.d_in for shape in base.modules.values() if not shape.kind.reads_vectors]
    logits = max((load.scored for load in workloads), default=0) * max(vocabularies, default=0)
    read, written = sum(load.read for load in workloads), sum(load.written for load in workloads)
    each = 2.0 * base.parameters / (_PRODUCTS * operations)
    return EvaluationCosts(
        base.parameters * itemsize, _COPIES * 4 * batch_size * logits, read * each, (read + written) * each
    )
