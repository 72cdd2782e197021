"""Rows out of records: which field is the prompt, which the answer, which rows are drawn.

The answer matters more than it looks: F_harm is made of gradients of log p(refusal | harmful prompt). Sets of harmful
prompts mostly carry harmful answers, and those would turn the merge around, so they are refused here.
"""

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError
from ..reading import reading
from ..texts import counted
from .formats import Record, read_file, read_hub
from .record_schemas import Recognised, UnusableRecordError, recognise, record_reader
from .rows import Row, normalise_prompt
from .source import DataSource

__all__ = ["LoadedRows", "load_rows", "read_rows"]

_FALSE = frozenset({"false", "0", "no"})
_SHOWN = 3


@dataclass(frozen=True)
class LoadedRows:
    """Rows of a source, and what was left behind.

    Attributes:
        rows: prompts and answers.
        notes: sentences about records that were skipped and fields that are not used.
        recognised: what the records were taken for.
        counts: ``records`` that were read, that are ``kept`` by `where`, that are ``usable``, and ``distinct`` prompts.
    """

    rows: list[Row]
    notes: tuple[str, ...]
    recognised: Recognised | None = field(default=None, compare=False)
    counts: Mapping[str, int] = field(default_factory=dict, compare=False)


def load_rows(source: DataSource, *, seed: int = 0) -> list[Row]:
    """Read, clean and draw the rows of a source.

    Records are filtered by `where`, rows with a blank prompt or answer are dropped, of equal prompts (up to case and
    white space) the first is kept, then `samples` are drawn without replacement. A larger draw with the same seed
    begins with the smaller one. Without `samples`, rows keep their order. Lines of a file that are no record count as
    unusable ones.

    Known schemas (any case): prompt/response|completion|output|answer, instruction[+input]/output|response,
    question/answer|response, each with [context] and [system|system_prompt]; goal/target, behavior; messages or
    conversations (the first exchange). System messages are put before the prompt, input and context behind it. Records
    that give no prompt and answer are skipped, as far as `max_unusable` allows; that and what is not used of the others
    (history, tools, later turns) is told as a Python warning (:func:`read_rows` returns it).

    Args:
        source: what to read.
        seed: of the draw, and of the choice among several fixed answers.

    Returns:
        Prompts and answers.

    Raises:
        DataError: the source cannot be read, has no such field, is empty, has too few rows or too many unusable
            records, or its answers are harmful and no `response` is given.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from sst_merge import DataSource, load_rows
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "harmful.jsonl"
        ...     _ = file.write_text(json.dumps({"prompt": "How do I pick a lock?"}))
        ...     load_rows(DataSource(path=file, response="I cannot help with that."))
        [Row(prompt='How do I pick a lock?', response='I cannot help with that.')]
    """
    found = read_rows(source, seed=seed)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found.rows


def read_rows(source: DataSource, *, seed: int = 0) -> LoadedRows:
    """:func:`load_rows`, with what was left behind.

    Args:
        source: what to read.
        seed: of the draw, and of the choice among several fixed answers.

    Raises:
        DataError: as for :func:`load_rows`.
    """
    broken: list[str] = []
    if source.path is not None:
        records = read_file(source.path, broken)
    else:
        assert source.dataset is not None, "DataSource has one of both"
        records = read_hub(source.dataset, source.subset, source.split or "train", revision=source.revision)
    with reading(source.name, DataError, "records of prompts and answers", "correct the records"):
        if not records and broken:
            raise DataError(f"{source.name}: no record can be read{_shown(broken)}")
        kept = _filter(records, source)
        if not source.response:
            _refuse_marked_unsafe(kept, source)
        recognised = recognise(kept, source)
        found, notes = _to_rows(kept, source, recognised, seed, broken)
        rows = _distinct(found)
    counts = {"records": len(records), "kept": len(kept), "usable": len(found), "distinct": len(rows)}
    if source.samples is None:
        return LoadedRows(rows, notes, recognised, counts)
    if len(rows) < source.samples:
        raise DataError(
            f"{source.name}: {len(rows)} distinct prompts, but samples = {source.samples}; lower `samples` or add data"
        )
    random.Random(seed).shuffle(rows)
    return LoadedRows(rows[: source.samples], notes, recognised, counts)


def _filter(records: Sequence[Record], source: DataSource) -> list[Record]:
    if not records:
        raise DataError(f"{source.name}: the data set is empty")
    kept = list(records)
    for column, wanted in (source.where or {}).items():
        # A record without the field does not have this value.
        having = [record for record in records if column in record]
        _require(column, having[0] if having else records[0], source, "where")
        kept = [record for record in kept if column in record and _same(record[column], wanted)]
        if not kept:
            values = sorted({str(record[column])[:40] for record in having[:1000]})[:8]
            raise DataError(
                f"{source.name}: no record has {column} = {wanted!r} left; values there: {', '.join(values)}"
            )
    return kept


def _same(value: object, wanted: object) -> bool:
    return str(value).casefold() == str(wanted).casefold()


def _refuse_marked_unsafe(records: Sequence[Record], source: DataSource) -> None:
    unsafe = sum(str(record.get("is_safe", True)).strip().casefold() in _FALSE for record in records)
    if unsafe:
        raise DataError(
            f"{source.name}: {unsafe} of {len(records)} answers are marked is_safe = false and would be taken "
            "for good ones; set `response:` to the refusal that should be given instead"
            + ("" if unsafe == len(records) else ", or keep the safe answers with `where: {is_safe: true}`")
        )


def _to_rows(
    records: Sequence[Record], source: DataSource, recognised: Recognised, seed: int, broken: Sequence[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """All rows in order, and what was left behind; what is broken in the file counts as unusable.

    Raises:
        DataError: none can be used, or too few.
    """
    read = record_reader(recognised, fixed=bool(source.response), turns=source.turns)
    rows: list[Row] = []
    unusable = list(broken)
    blank: list[str] = []
    unused: Counter[str] = Counter()
    for number, record in enumerate(records, start=1):
        try:
            exchanges = read(record)
        except UnusableRecordError as error:
            unusable.append(f"record {number}: {error}")
            continue
        for prompt, own, left, before in exchanges:
            # A row's draw depends on its prompt, so that it stays the same in any sample.
            response = random.Random(f"{seed}:{prompt}").choice(source.response) if source.response else own
            if prompt.strip() and response.strip():
                rows.append(Row(prompt, response, before))
                unused.update(left)
            else:
                blank.append(f"record {number}: a blank {'answer' if prompt.strip() else 'prompt'}")
    total = len(records) + len(broken)
    if not rows:
        raise DataError(
            f"{source.name}: none of its {total} records has a prompt and an answer; nothing to use"
            f"{_shown([*unusable, *blank])}"
        )
    if len(unusable) > max(_SHOWN, source.max_unusable * total):
        raise DataError(
            f"{source.name}: {len(unusable)} of {total} records cannot be used, more than max_unusable = "
            f"{source.max_unusable:g} allows{_shown(unusable)}. Correct the data, name the fields (prompt_field, "
            f"response_field), or raise max_unusable"
        )
    notes = []
    if unusable:
        notes.append(f"{source.name}: {len(unusable)} of {total} records are skipped{_shown(unusable)}")
    if blank:
        notes.append(f"{source.name}: {len(blank)} of {total} records are blank and skipped{_shown(blank)}")
    notes += [
        f"{source.name}: {counted(count, 'record')} {'has' if count == 1 else 'have'} {left}, not used: a row is one "
        f"prompt and one answer"
        for left, count in sorted(unused.items())
    ]
    return rows, tuple(notes)


def _shown(reasons: Iterable[str]) -> str:
    first, rest = (listed := list(reasons))[:_SHOWN], max(0, len(listed) - _SHOWN)
    return (": " if first else "") + "; ".join(first) + (f"; and {rest} more" if rest else "")


def _distinct(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        # After another beginning the same question is another one.
        first.setdefault(normalise_prompt("\n".join([*(text for _, text in row.before), row.prompt])), row)
    return list(first.values())


def _require(field: str, sample: Record, source: DataSource, option: str) -> None:
    if field not in sample:
        raise DataError(
            f"{source.name}: no field {field!r} ({option}); columns found: {', '.join(sample)}; name one of them"
        )
