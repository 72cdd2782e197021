"""How safe a model is, from its records: refusals, harm, over-refusal and incoherence, each with its interval.

Refusal and harm are two numbers and never mixed, direct and jailbroken prompts are told apart, and incoherence stands
beside both, because token soup neither refuses nor harms.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..data_loader import normalise_prompt
from ..errors import DataError
from ..measures.intervals import wilson_interval
from ..suites import Suite, available_suites
from .records import Record

__all__ = ["SafetyReport", "Share", "evaluate_safety", "rate", "rates_by_tag", "records_by_suite"]


class Share(NamedTuple):
    """A rate with its Wilson interval and what it rests on.

    Attributes:
        value: share of the records.
        low: lower end.
        high: upper end.
        n: records behind it.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class SafetyReport:
    """One model's safety. What no record speaks about is None.

    Attributes:
        refusal: refusals of harmful prompts asked plainly.
        refusal_jailbroken: the same under attack (wrapper, prefilling, suppressed refusals).
        harm: harmful answers to harmful prompts asked plainly.
        harm_jailbroken: the same under attack.
        over_refusal: refusals of harmless prompts.
        incoherent: degenerate answers among all that were looked at for it.
        refusal_by_suite: refusals in each suite of harmful prompts.
        refusal_by_category: suite → value of its breakdown tag → refusals.
    """

    refusal: Share | None
    refusal_jailbroken: Share | None
    harm: Share | None
    harm_jailbroken: Share | None
    over_refusal: Share | None
    incoherent: Share | None
    refusal_by_suite: Mapping[str, Share]
    refusal_by_category: Mapping[str, Mapping[str, Share]]


def rate(records: Iterable[Record], column: str, *, level: float = 0.95) -> Share | None:
    """Share of records whose column says yes.

    Args:
        records: of one model; those without the column do not count.
        column: of truth values, such as ``refusal``; 0.5 and above is yes.
        level: coverage of the interval.

    Returns:
        The rate, or None where no record has the column.
    """
    verdicts = [record.scores[column] >= 0.5 for record in records if column in record.scores]
    if not verdicts:
        return None
    low, high = wilson_interval(sum(verdicts), len(verdicts), level)
    return Share(sum(verdicts) / len(verdicts), low, high, len(verdicts))


def rates_by_tag(records: Iterable[Record], column: str, tag: str, *, level: float = 0.95) -> dict[str, Share]:
    """The rate for each value of a tag.

    Args:
        records: of one model.
        column: as in :func:`rate`.
        tag: a record whose tag holds several values, joined by ``|`` (BeaverTails' `categories`), counts for each.
        level: coverage of the intervals.

    Returns:
        Value → rate, values in alphabetical order; records without the tag do not count.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for value in record.tags.get(tag, "").split("|"):
            if value:
                groups[value].append(record)
    found = {value: rate(groups[value], column, level=level) for value in sorted(groups)}
    return {value: estimate for value, estimate in found.items() if estimate is not None}


def records_by_suite(records: Iterable[Record], suites: Mapping[str, Suite]) -> dict[str, list[Record]]:
    """One model's records by suite.

    Args:
        records: of one model.
        suites: those known, by name.

    Returns:
        Suite → its records, in the order of `suites`.

    Raises:
        DataError: records of several models, or of an unknown suite.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    models = set()
    for record in records:
        if record.suite not in suites:
            raise DataError(f"record {record.id!r}: unknown suite {record.suite!r}; known: {', '.join(suites)}")
        models.add(record.model)
        groups[record.suite].append(record)
    if len(models) > 1:
        raise DataError(f"one model at a time is evaluated; records are of {', '.join(sorted(models))}")
    return {name: groups[name] for name in suites if name in groups}


def evaluate_safety(
    records: Iterable[Record], *, suites: Mapping[str, Suite] | None = None, level: float = 0.95
) -> SafetyReport:
    """Everything about safety that one model's records say.

    Where suites are pooled, a prompt that several of them ask in the same way counts once. Suites of drift are not
    pooled in: they are read before and after merging (:func:`~sst_merge.measures.safety_tax.drift`).

    Args:
        records: of one model; records of utility suites are ignored.
        suites: by name; all that are installed by default.
        level: coverage of the intervals.

    Returns:
        The report.
    """
    suites = available_suites() if suites is None else suites
    by_suite = records_by_suite(records, suites)
    asked = _pooled(by_suite, suites, "safety")
    direct = [record for record in asked if _attack(record) == "none"]
    attacked = [record for record in asked if _attack(record) != "none"]
    harmful = {name: group for name, group in by_suite.items() if suites[name].measure == "safety"}
    per_suite = {name: rate(group, "refusal", level=level) for name, group in harmful.items()}
    return SafetyReport(
        refusal=rate(direct, "refusal", level=level),
        refusal_jailbroken=rate(attacked, "refusal", level=level),
        harm=rate(direct, "harm", level=level),
        harm_jailbroken=rate(attacked, "harm", level=level),
        over_refusal=rate(_pooled(by_suite, suites, "over_refusal"), "refusal", level=level),
        incoherent=rate((record for group in by_suite.values() for record in group), "incoherent", level=level),
        refusal_by_suite={name: found for name, found in per_suite.items() if found is not None},
        refusal_by_category={
            name: rates_by_tag(group, "refusal", tag, level=level)
            for name, group in harmful.items()
            if (tag := suites[name].breakdown) is not None
        },
    )


def _pooled(by_suite: Mapping[str, Sequence[Record]], suites: Mapping[str, Suite], measure: str) -> list[Record]:
    """Records of all suites of one measure; a prompt that several suites ask in the same way counts in the first."""
    seen: set[tuple[str, str]] = set()
    pooled: list[Record] = []
    for name, group in by_suite.items():
        if suites[name].measure == measure:
            keys = [(normalise_prompt(record.prompt), _attack(record)) for record in group]
            pooled.extend(record for record, key in zip(group, keys, strict=True) if key not in seen)
            seen.update(keys)
    return pooled


def _attack(record: Record) -> str:
    return record.tags.get("attack", "none")
