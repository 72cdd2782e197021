"""Scores by model, suite and sample: what is paired by sample id, so that models can be compared."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import DataError
from .records import Record

__all__ = ["ScoreTable"]

# Refusal and harm say nothing without how much of the output is no answer at all, so the three stand together.
_FIRST = ("refusal", "harm", "incoherent")


@dataclass(frozen=True)
class _Scored:
    """What stays of a record: prompts and responses are not needed to measure."""

    scores: Mapping[str, float]
    tags: Mapping[str, str]
    judges: Mapping[str, str]


class ScoreTable:
    """All scores of some records, by model and suite.

    Args:
        records: in any order; the order of first appearance orders models and suites.

    Attributes:
        models: names, in order.
        suites: names, in order.
    """

    models: list[str]
    suites: list[str]

    def __init__(self, records: Iterable[Record]) -> None:
        self._cells: dict[tuple[str, str], dict[str, _Scored]] = {}
        for record in records:
            where = f"{record.model}, {record.suite}, {record.id}"
            wrong = {name: score for name, score in record.scores.items() if not math.isfinite(score)}
            if wrong:
                raise DataError(f"record {where}: scores {wrong}; expected finite numbers, absent where undecided")
            cell = self._cells.setdefault((record.model, record.suite), {})
            if record.id in cell:
                raise DataError(f"record {where} is there twice; expected one per model, suite and id: remove one")
            cell[record.id] = _Scored(record.scores, record.tags, record.judges)
        self.models = list(dict.fromkeys(model for model, _ in self._cells))
        self.suites = list(dict.fromkeys(suite for _, suite in self._cells))

    def columns(self, suite: str) -> list[str]:
        """Scores that some record of a suite has.

        Args:
            suite: name.

        Returns:
            Refusal, harm and incoherence first, the others by name.
        """
        found = {
            name
            for (_, of), cell in self._cells.items()
            if of == suite
            for scored in cell.values()
            for name in scored.scores
        }
        return [name for name in _FIRST if name in found] + sorted(found - set(_FIRST))

    def count(self, model: str, suite: str) -> int:
        """Samples that a model answered.

        Args:
            model: name.
            suite: name.

        Returns:
            How many; 0 where the model has no records of the suite.
        """
        return len(self._cells.get((model, suite), {}))

    def ids(self, model: str, suite: str) -> set[str]:
        """Ids of the samples that a model answered.

        Args:
            model: name.
            suite: name.

        Returns:
            The ids.
        """
        return set(self._cells.get((model, suite), {}))

    def values(self, model: str, suite: str, score: str) -> dict[str, float]:
        """One column of one model on one suite.

        Args:
            model: name.
            suite: name.
            score: column.

        Returns:
            Sample id → score, sorted by id, without the samples that were not decided.
        """
        cell = self._cells.get((model, suite), {})
        return {id_: float(cell[id_].scores[score]) for id_ in sorted(cell) if score in cell[id_].scores}

    def groups(self, suite: str, tag: str) -> dict[str, set[str]]:
        """Samples of a suite by the value of a tag.

        Args:
            suite: name.
            tag: key of the records' tags.

        Returns:
            Value → sample ids, values sorted; samples without the tag are in none.
        """
        found: dict[str, set[str]] = {}
        for (_, of), cell in self._cells.items():
            if of == suite:
                for id_, scored in cell.items():
                    if tag in scored.tags:
                        found.setdefault(scored.tags[tag], set()).add(id_)
        return dict(sorted(found.items()))

    def judges(self, suite: str, score: str) -> list[str]:
        """Who decided a column.

        Args:
            suite: name.
            score: column.

        Returns:
            Names and versions, sorted; more than one means that models were not measured alike.
        """
        names = {
            scored.judges[score]
            for (_, of), cell in self._cells.items()
            if of == suite
            for scored in cell.values()
            if score in scored.judges
        }
        return sorted(names)

    def paired(self, a: str, b: str, suite: str, score: str) -> tuple[list[float], list[float], int]:
        """Scores of two models on the samples that both have, paired by sample id.

        Args:
            a: first model.
            b: second model.
            suite: name.
            score: column.

        Returns:
            Scores of the first, scores of the second in the same order, and how many samples only one of them has.
        """
        first, second = self.values(a, suite, score), self.values(b, suite, score)
        common = sorted(first.keys() & second.keys())
        alone = len(first.keys() ^ second.keys())
        return [first[id_] for id_ in common], [second[id_] for id_ in common], alone
