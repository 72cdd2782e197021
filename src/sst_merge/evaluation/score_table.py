"""Scores by model, suite and sample: what is paired by sample id, so that models can be compared."""

import math
from collections.abc import Iterable, Mapping, Sequence

from ..errors import DataError
from ..suites import Suite
from .records import Record

__all__ = ["ScoreTable"]


class ScoreTable:
    """All records of an evaluation, by model and suite.

    Args:
        records: in any order; the order of first appearance orders models.
        suites: those that the records may be of, by name, in table order.

    Attributes:
        models: names, in order.
        suites: those with records, by name, in order.

    Raises:
        DataError: a suite that is not known, the same sample twice, or a score that is not finite.
    """

    models: list[str]
    suites: dict[str, Suite]

    def __init__(self, records: Iterable[Record], suites: Mapping[str, Suite]) -> None:
        self._cells: dict[tuple[str, str], dict[str, Record]] = {}
        for record in records:
            where = f"record {record.model}, {record.suite}, {record.id}"
            wrong = {name: score for name, score in record.scores.items() if not math.isfinite(score)}
            if wrong:
                raise DataError(f"{where}: scores {wrong}; expected finite numbers, absent where undecided")
            if record.suite not in suites:
                raise DataError(f"{where}: unknown suite; known: {', '.join(suites)}")
            cell = self._cells.setdefault((record.model, record.suite), {})
            if record.id in cell:
                raise DataError(f"{where} is there twice; expected one per model, suite and id: remove one")
            cell[record.id] = record
        self.models = list(dict.fromkeys(model for model, _ in self._cells))
        found = {name for _, name in self._cells}
        self.suites = {name: suite for name, suite in suites.items() if name in found}

    def columns(self, suite: str) -> list[str]:
        """Scores that some record of a suite has.

        Args:
            suite: name.

        Returns:
            Names, sorted.
        """
        return sorted({name for record in self._of_suite(suite) for name in record.scores})

    def count(self, model: str, suite: str) -> int:
        """Samples that a model answered.

        Args:
            model: name.
            suite: name.

        Returns:
            How many; 0 where the model has no records of the suite.
        """
        return len(self._cells.get((model, suite), {}))

    def records(self, model: str, suite: str) -> list[Record]:
        """What a model answered on a suite.

        Args:
            model: name.
            suite: name.

        Returns:
            Records, sorted by id.
        """
        return [record for _, record in sorted(self._cells.get((model, suite), {}).items())]

    def values(self, model: str, suite: str, score: str) -> dict[str, float]:
        """One column of one model on one suite.

        Args:
            model: name.
            suite: name.
            score: column.

        Returns:
            Sample id → score, sorted by id, without the samples that were not decided.
        """
        return {r.id: float(r.scores[score]) for r in self.records(model, suite) if score in r.scores}

    def judges(self, suite: str, score: str) -> list[str]:
        """Who decided a column.

        Args:
            suite: name.
            score: column.

        Returns:
            Names and versions, sorted; more than one means that models were not measured alike.
        """
        return sorted({record.judges[score] for record in self._of_suite(suite) if score in record.judges})

    def paired(self, models: Sequence[str], suite: str, score: str) -> tuple[list[list[float]], int]:
        """Scores of several models on the samples that all of them have, paired by sample id.

        Args:
            models: names.
            suite: name.
            score: column.

        Returns:
            Scores of each model in the same order of samples, and how many samples only some of them have.
        """
        values = [self.values(model, suite, score) for model in models]
        common = sorted(set.intersection(*(set(found) for found in values)))
        alone = len(set().union(*values)) - len(common)
        return [[found[id_] for id_ in common] for found in values], alone

    def _of_suite(self, suite: str) -> Iterable[Record]:
        return (record for (_, of), cell in self._cells.items() if of == suite for record in cell.values())
