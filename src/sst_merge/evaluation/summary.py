"""The summary of an evaluation: every rate with its interval, every comparison, as plain JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_file

__all__ = ["Comparison", "Rate", "Summary", "read_summary", "write_summary"]

_FORMAT = "sst_merge.evaluation_summary/1"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One score of one model on one suite, or on one group of its samples.

    Attributes:
        model: name.
        suite: name.
        score: column of the records.
        tag: tag that the suite is broken down by; None for the whole suite.
        group: value of that tag.
        value: mean score; None where no sample was decided.
        low: lower end of the interval, None where unknown.
        high: upper end.
        k: successes, where every score is 0 or 1.
        n: samples with this score.
        undecided: samples without it.
        interval: ``wilson`` for shares of successes, ``t`` for means of other scores, ``logit-t`` over training seeds.
    """

    model: str
    suite: str
    score: str
    tag: str | None = None
    group: str | None = None
    value: float | None
    low: float | None
    high: float | None
    k: int | None
    n: int
    undecided: int
    interval: str

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against the reference on the samples that both have.

    Attributes:
        model: name.
        reference: name.
        suite: name.
        score: column.
        difference: mean score of the model less that of the reference.
        low: lower end of its paired bootstrap interval.
        high: upper end.
        p_value: of the exact McNemar test, not corrected for the number of comparisons; None for scores other than 0
            and 1, and over seeds.
        n: paired samples.
        unpaired: samples that only one of the two has.
    """

    model: str
    reference: str
    suite: str
    score: str
    difference: float
    low: float
    high: float
    p_value: float | None
    n: int
    unpaired: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an evaluation found.

    Attributes:
        models: in table order.
        suites: in table order.
        scores: suite → its columns; incoherence beside refusal and harm even where it was not judged.
        rates: of whole suites, then of groups.
        comparisons: with the reference.
        judges: suite → column → names and versions of what decided it.
        reference: model that the others are compared with, or None.
        required: models that every table must show: the base and each single adapter.
        warnings: what a reader should know before believing the figures.
        level: coverage of all intervals.
        seed: of the bootstrap draws.
        left_out: suite → rows left out because a merge was calibrated on their prompt; empty where no such prompts were
            named.
    """

    models: tuple[str, ...]
    suites: tuple[str, ...]
    scores: Mapping[str, tuple[str, ...]]
    rates: tuple[Rate, ...]
    comparisons: tuple[Comparison, ...] = ()
    judges: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    reference: str | None = None
    required: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    level: float = 0.95
    seed: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def rate(self, model: str, suite: str, score: str, group: str | None = None) -> Rate | None:
        """One rate.

        Args:
            model: name.
            suite: name.
            score: column.
            group: value of the suite's breakdown tag; None for the whole suite.

        Returns:
            The rate, or None where the model has no such samples: a dash in tables, never 0.
        """
        return self._by_name.get((model, suite, score, group))

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str, str | None], Rate]:
        return {(rate.model, rate.suite, rate.score, rate.group): rate for rate in self.rates}

    def groups(self, suite: str) -> tuple[str, ...]:
        """Groups that a suite is broken down into.

        Args:
            suite: name.

        Returns:
            Values of its tag, in order; none where it is not broken down.
        """
        return tuple(dict.fromkeys(r.group for r in self.rates if r.suite == suite and r.group is not None))

    def to_json(self) -> dict[str, Any]:
        """The summary as plain values.

        Returns:
            What :meth:`from_json` takes.
        """
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Summary":
        """A summary from plain values.

        Args:
            fields: as :meth:`to_json` gives, or as JSON reads it back.

        Returns:
            The summary.

        Raises:
            DataError: it is no summary of this format.
        """
        if fields.get("format") != _FORMAT:
            raise DataError(
                f"evaluation summary of format {fields.get('format')!r}; expected {_FORMAT}: evaluate again"
            )
        try:
            return cls(
                models=tuple(fields["models"]),
                suites=tuple(fields["suites"]),
                scores={suite: tuple(names) for suite, names in fields["scores"].items()},
                rates=tuple(Rate(**rate) for rate in fields["rates"]),
                comparisons=tuple(Comparison(**found) for found in fields["comparisons"]),
                judges={
                    suite: {score: tuple(names) for score, names in columns.items()}
                    for suite, columns in fields["judges"].items()
                },
                reference=fields["reference"],
                required=tuple(fields["required"]),
                warnings=tuple(fields["warnings"]),
                level=fields["level"],
                seed=fields["seed"],
                # Summaries written before there was a choice left nothing out.
                left_out=dict(fields.get("left_out", {})),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"evaluation summary: {error!r}; expected the fields of Summary: evaluate again") from error


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON, aside first and renamed.

    Args:
        path: the file; an existing one is replaced.
        summary: to write.
    """
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(summary.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_summary(path: Path) -> Summary:
    """Read a summary back.

    Args:
        path: a file that :func:`write_summary` wrote.

    Returns:
        The summary.

    Raises:
        DataError: it is no JSON, or no summary of this format.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: no JSON ({error}); evaluate again") from error
    if not isinstance(fields, dict):
        raise DataError(f"{path}: a {type(fields).__name__}; expected the fields of an evaluation summary")
    return Summary.from_json(fields)
