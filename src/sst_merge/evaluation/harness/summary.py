"""Records counted: one row per model and suite, every score with its interval, and by tag where a suite has one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..intervals import seed_interval, wilson_interval
from ..records import Record
from ..suites import Suite

__all__ = ["summarise"]


def summarise(records: Mapping[tuple[str, str], Sequence[Record]], suites: Sequence[Suite]) -> list[dict[str, Any]]:
    """One entry per model and suite, in the order of the records.

    Args:
        records: (model, suite) → its records.
        suites: what the scores stand for.

    Returns:
        Entries with `model`, `suite`, `measure`, `score` (the suite's own column), `n`, `scores` (column → mean, 95 %
        interval, n: Wilson for truth values, Student's t otherwise), `judges` and `breakdown` (tag value → the same
        figures of the suite's own column).
    """
    table = {suite.name: suite for suite in suites}
    entries = []
    for (model, name), found in records.items():
        suite = table[name]
        columns = list(dict.fromkeys(column for record in found for column in record.scores))
        judges = {column: judge for record in found for column, judge in record.judges.items()}
        entries.append(
            {
                "model": model,
                "suite": name,
                "measure": suite.measure,
                "score": suite.score,
                "higher_is_better": suite.higher_is_better,
                "n": len(found),
                "scores": {column: _figures(found, column) for column in columns},
                "judges": judges,
                "breakdown": _breakdown(found, suite),
            }
        )
    return entries


def _figures(records: Sequence[Record], column: str) -> dict[str, Any]:
    values = [record.scores[column] for record in records if column in record.scores]
    mean = sum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        interval: tuple[float, float] | None = wilson_interval(int(sum(values)), len(values))
    else:
        interval = tuple(seed_interval(values)[1:]) if len(values) > 1 else None  # type: ignore[assignment]
    return {"mean": mean, "interval": list(interval) if interval else None, "n": len(values)}


def _breakdown(records: Sequence[Record], suite: Suite) -> dict[str, Any]:
    if suite.breakdown is None:
        return {}
    groups: dict[str, list[Record]] = {}
    for record in records:
        if suite.breakdown in record.tags and suite.score in record.scores:
            groups.setdefault(record.tags[suite.breakdown], []).append(record)
    return {value: _figures(group, suite.score) for value, group in sorted(groups.items())}
