"""One record a sample: what was asked, what came back, and every score with the judge that gave it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_file
from ..reading import cause, reading

__all__ = ["Record", "read_records", "write_records"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample of one suite, answered by one model.

    Attributes:
        model: name of what answered: ``base``, an adapter, or a merge.
        suite: name of the suite.
        id: of the sample, unique within the suite and the same for every model, so that models can be paired.
        prompt: what the user said, jailbreak wrapper included, chat template not.
        response: what the model generated, prefilled words included; the option it chose, for option scoring.
        tags: what results may be broken down by, such as category, wrapper or subject.
        scores: column → number. Truth values are 0 or 1; a column that a judge could not decide is absent.
        judges: column → name and version of what decided it.
        run: digest of the run's settings in ``run.json``: base, adapters, data, template, decoding and versions.
    """

    model: str
    suite: str
    id: str
    prompt: str
    response: str
    tags: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)
    run: str = ""


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, whole or not at all; returns how many."""
    count = 0
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
    return count


def read_records(path: Path) -> Iterator[Record]:
    """Read records back.

    Raises:
        DataError: a line is not a record; names file and line.
    """
    what = reading(path, DataError, "records", "evaluate again into a new folder")
    with what, path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                fields: dict[str, Any] = json.loads(line)
                record = Record(**fields)
            except (ValueError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not a record ({cause(error)}); evaluate again into a new folder"
                ) from error
            yield record
