"""The summary of an evaluation: every figure with its interval, every comparison, as plain JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from ..errors import DataError
from ..files import write_text
from ..measures.figure import Figure
from ..reading import cause, reading
from .safety_evaluator import SafetyReport
from .safety_tax_calculator import SafetyTax
from .suite_figures import SuiteFigure
from .utility_evaluator import UtilityReport

__all__ = ["Comparison", "Summary", "read_summary", "write_summary"]

_Format = Literal["sst_merge.evaluation_summary/2"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against the reference on the samples that both have.

    Attributes:
        model: name.
        reference: name.
        suite: name.
        score: column.
        difference: mean score of the model less that of the reference, with its paired bootstrap interval.
        p_value: of the exact McNemar test, not corrected for the number of comparisons; None for scores other than 0
            and 1.
        unpaired: samples that only one of the two has.
    """

    model: str
    reference: str
    suite: str
    score: str
    difference: Figure
    p_value: float | None
    unpaired: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an evaluation found.

    Attributes:
        models: in table order.
        suites: in table order.
        scores: suite → its columns; incoherence beside refusal and harm even where it was not judged.
        safety: model → its safety, over suites and suite by suite.
        utility: model → its skills, over suites and suite by suite.
        taxes: of every merge whose adapters are among the models, where it was asked for safety and for skills.
        comparisons: with the reference.
        judges: suite → column → names and versions of what decided it.
        reference: model that the others are compared with, or None.
        required: models that every table must show: the base and each single adapter.
        warnings: what a reader should know before believing the figures.
        level: coverage of all intervals.
        seed: of the bootstrap draws.
        left_out: suite → rows left out because a merge was calibrated on their prompt; empty where no such prompts were
            named.
        format: of the file.
    """

    models: tuple[str, ...]
    suites: tuple[str, ...]
    scores: Mapping[str, tuple[str, ...]]
    safety: Mapping[str, SafetyReport]
    utility: Mapping[str, UtilityReport]
    taxes: tuple[SafetyTax, ...]
    comparisons: tuple[Comparison, ...]
    judges: Mapping[str, Mapping[str, tuple[str, ...]]]
    reference: str | None
    required: tuple[str, ...]
    warnings: tuple[str, ...]
    level: float
    seed: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    format: _Format = "sst_merge.evaluation_summary/2"

    @cached_property
    def figures(self) -> tuple[SuiteFigure, ...]:
        """Every column of every suite, suites in table order, models within: the whole suite, then its groups."""
        reports = [report for model in self.models for report in (self.safety[model], self.utility[model])]
        found = [figure for report in reports for figure in report.suites]
        return tuple(sorted(found, key=lambda figure: self.suites.index(figure.suite)))

    def figure(self, model: str, suite: str, score: str, group: str | None = None) -> Figure | None:
        """One figure, of the whole suite or of a group; None, a dash in tables, where there are no such samples."""
        found = self._by_name.get((model, suite, score, group))
        return None if found is None else found.figure

    def answered(self, model: str, suite: str) -> int | None:
        """Samples of a suite that a model answered, decided or not; None where it was not asked."""
        found = self._by_name.get((model, suite, self.scores[suite][0], None))
        return None if found is None else found.answered

    def groups(self, suite: str) -> tuple[str, ...]:
        """Values of the tag that a suite is broken down by, sorted."""
        return tuple(sorted({f.group for f in self.figures if f.suite == suite and f.group is not None}))

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str, str | None], SuiteFigure]:
        return {(found.model, found.suite, found.score, found.group): found for found in self.figures}

    def to_json(self) -> str:
        """The summary as JSON; an end of an interval at infinity is null."""
        return _ADAPTER.dump_json(self, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """A summary from its JSON.

        Raises:
            DataError: it is not JSON, or not a summary of this format.
        """
        try:
            return _ADAPTER.validate_python(_with_infinite_ends(json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"no evaluation summary of this version ({cause(error)}); evaluate again") from error


_ADAPTER = TypeAdapter(Summary)


def _with_infinite_ends(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_infinite_ends(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: _with_infinite_ends(item) for name, item in value.items()}
    ends = {"low": -math.inf, "high": math.inf}
    return found | {name: end for name, end in ends.items() if name in found and found[name] is None}


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON; the file is whole or absent."""
    write_text(path, summary.to_json() + "\n")


def read_summary(path: Path) -> Summary:
    """Read a summary back.

    Raises:
        DataError: it is not JSON, or not a summary of this format.
    """
    with reading(path, DataError, "a summary", "evaluate again"):
        text = path.read_text(encoding="utf-8")
    try:
        return Summary.from_json(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
