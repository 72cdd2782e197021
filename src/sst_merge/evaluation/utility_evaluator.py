"""What a model can do, from its records: accuracy by task and subject, perplexity, and what is left of each skill."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import DataError
from ..measures.safety_tax import retention
from ..suites import Suite, available_suites
from .records import Record
from .safety_evaluator import Share, rate, rates_by_tag, records_by_suite

__all__ = ["Perplexity", "UtilityReport", "evaluate_utility", "own_retention", "perplexity"]


class Perplexity(NamedTuple):
    """How well a model predicts a text; lower is better.

    Attributes:
        word: perplexity a word.
        byte: perplexity a byte.
        bits_per_byte: log₂ of the latter; unlike the other two it can be averaged and subtracted.
    """

    word: float
    byte: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class UtilityReport:
    """One model's skills.

    Attributes:
        accuracy: suite → share of right answers, every question counting the same.
        by_group: suite → value of its breakdown tag (MMLU's subject) → share of right answers.
        group_mean: suite → mean of `by_group`, every group counting the same.
        perplexity: of held-out text, or None.
    """

    accuracy: Mapping[str, Share]
    by_group: Mapping[str, Mapping[str, Share]]
    group_mean: Mapping[str, float]
    perplexity: Perplexity | None

    @property
    def scores(self) -> dict[str, float]:
        """Suite → accuracy, as retention and tax take it."""
        return {suite: share.value for suite, share in self.accuracy.items()}


def perplexity(records: Iterable[Record]) -> Perplexity:
    """Perplexity of all texts together: likelihoods, words and bytes add up before the quotient is taken.

    Args:
        records: of one model on the suite ``perplexity``.

    Returns:
        The three measures.

    Raises:
        DataError: no records, or one without its likelihood.
    """
    totals = {"loglikelihood": 0.0, "words": 0.0, "bytes": 0.0}
    count = 0
    for record in records:
        missing = totals.keys() - record.scores.keys()
        if missing:
            raise DataError(f"perplexity: record {record.id!r} has no {', '.join(sorted(missing))}")
        for column in totals:
            totals[column] += record.scores[column]
        count += 1
    if not count:
        raise DataError("perplexity: no records; evaluate the suite `perplexity` first")
    nats = -totals["loglikelihood"]
    return Perplexity(
        math.exp(nats / totals["words"]), math.exp(nats / totals["bytes"]), nats / totals["bytes"] / math.log(2)
    )


def evaluate_utility(
    records: Iterable[Record], *, suites: Mapping[str, Suite] | None = None, level: float = 0.95
) -> UtilityReport:
    """Everything about skills that one model's records say.

    Args:
        records: of one model; records of other measures are ignored.
        suites: by name; all that are installed by default, to which custom suites may be added.
        level: coverage of the intervals.

    Returns:
        The report.
    """
    suites = available_suites() if suites is None else suites
    by_suite = {
        name: group for name, group in records_by_suite(records, suites).items() if suites[name].measure == "utility"
    }
    accuracy: dict[str, Share] = {}
    by_group: dict[str, Mapping[str, Share]] = {}
    for name, group in by_suite.items():
        suite = suites[name]
        if not suite.rate:
            continue
        share = rate(group, suite.score, level=level)
        if share is not None:
            accuracy[name] = share
        if share is not None and suite.breakdown is not None:
            by_group[name] = rates_by_tag(group, suite.score, suite.breakdown, level=level)
    texts = [record for group in by_suite.values() for record in group if "loglikelihood" in record.scores]
    return UtilityReport(
        accuracy=accuracy,
        by_group=by_group,
        group_mean={
            name: math.fsum(share.value for share in groups.values()) / len(groups)
            for name, groups in by_group.items()
            if groups
        },
        perplexity=perplexity(texts) if texts else None,
    )


def own_retention(merged: UtilityReport, own: Mapping[str, UtilityReport]) -> float:
    """Retention: mean over tasks of the merged model's accuracy by that of the task's own adapter.

    Args:
        merged: of the merged model.
        own: suite → report of the adapter trained for it.

    Returns:
        1 where every task is as good as with its own adapter.

    Raises:
        DataError: a report lacks one of the suites, or an adapter scores nothing on its own task.
    """
    lacking = sorted(suite for suite in own if suite not in merged.accuracy or suite not in own[suite].accuracy)
    if lacking:
        raise DataError(f"retention: no accuracy of both the merged model and its own adapter on {', '.join(lacking)}")
    return retention(
        {suite: merged.accuracy[suite].value for suite in own},
        {suite: report.accuracy[suite].value for suite, report in own.items()},
    )
