"""Rows out of records: which field is the prompt, which the answer, which rows are drawn.

The answer matters more than it looks: F_harm is made of gradients of log p(refusal | harmful prompt). Sets of harmful
prompts mostly carry harmful answers, and those would turn the merge around, so they are refused here.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..reading import reading
from .formats import Record, read_file, read_hub
from .rows import Row, normalise_prompt
from .source import DataSource

__all__ = ["load_rows"]

# prompt field → its answer fields, in order of preference; lower case.
_SCHEMAS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("response", "completion", "output", "answer"),
    "instruction": ("output", "response"),
    "question": ("answer", "response"),
    "goal": ("target",),
    "behavior": (),
}
# AdvBench-style targets ("Sure, here is …") are what an attacker wants to read.
_HARMFUL_ANSWERS = frozenset({"target"})
_CHATS: Mapping[str, tuple[str, str]] = {"messages": ("role", "content"), "conversations": ("from", "value")}
_USERS = frozenset({"user", "human"})
_ASSISTANTS = frozenset({"assistant", "gpt"})
_FALSE = frozenset({"false", "0", "no"})


def load_rows(source: DataSource, *, seed: int = 0) -> list[Row]:
    """Read, clean and draw the rows of a source.

    Records are filtered by `where`, rows with a blank prompt or answer are dropped, of equal prompts (up to case and
    white space) the first is kept, then `samples` are drawn without replacement. A larger draw with the same seed
    begins with the smaller one. Without `samples`, rows keep their order.

    Known schemas (any case): prompt/response|completion|output|answer, instruction[+input]/output|response,
    question/answer|response, goal/target, behavior, messages or conversations (the first exchange; a system message
    is put before the prompt).

    Args:
        source: what to read.
        seed: of the draw, and of the choice among several fixed answers.

    Returns:
        Prompts and answers.

    Raises:
        DataError: the source cannot be read, has no such field, is empty, has too few rows, or its answers are harmful
            and no `response` is given.

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
    if source.path is not None:
        records = read_file(source.path)
    else:
        assert source.dataset is not None, "DataSource has one of both"
        records = read_hub(source.dataset, source.subset, source.split or "train")
    with reading(source.name, DataError, "records of prompts and answers", "correct the records"):
        records = _filter(records, source)
        if not source.response:
            _refuse_marked_unsafe(records, source)
        rows = _distinct(_to_rows(records, source, seed))
    if not rows:
        raise DataError(f"{source.name}: none of its {len(records)} records has a prompt and an answer; nothing to use")
    if source.samples is None:
        return rows
    if len(rows) < source.samples:
        raise DataError(
            f"{source.name}: {len(rows)} distinct prompts, but samples = {source.samples}; lower `samples` or add data"
        )
    random.Random(seed).shuffle(rows)
    return rows[: source.samples]


def _filter(records: Sequence[Record], source: DataSource) -> list[Record]:
    if not records:
        raise DataError(f"{source.name}: the data set is empty")
    kept = list(records)
    for field, wanted in (source.where or {}).items():
        # A record without the field does not have this value.
        having = [record for record in records if field in record]
        _require(field, having[0] if having else records[0], source, "where")
        kept = [record for record in kept if field in record and _same(record[field], wanted)]
        if not kept:
            values = sorted({str(record[field])[:40] for record in having[:1000]})[:8]
            raise DataError(
                f"{source.name}: no record has {field} = {wanted!r} left; values there: {', '.join(values)}"
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


def _to_rows(records: Sequence[Record], source: DataSource, seed: int) -> list[Row]:
    read = _reader(records[0], source)
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            prompt, response = read(record)
        except KeyError as error:
            raise DataError(
                f"{source.name}, record {number}: field {error.args[0]!r} is missing; it has {', '.join(record)}"
            ) from error
        except TypeError as error:
            raise DataError(f"{source.name}, record {number}: {error}") from error
        if source.response:
            # A row's draw depends on its prompt, so that it stays the same in any sample.
            response = random.Random(f"{seed}:{prompt}").choice(source.response)
        if prompt.strip() and response.strip():
            rows.append(Row(prompt, response))
    return rows


def _distinct(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(normalise_prompt(row.prompt), row)
    return list(first.values())


def _reader(sample: Record, source: DataSource) -> Callable[[Record], tuple[str, str]]:
    """How to take prompt and answer from a record, decided once by the first record's fields.

    Raises:
        DataError: no field is known as a prompt.
    """
    fixed = bool(source.response)
    names = {name.casefold(): name for name in sample}
    if source.prompt_field is None:
        for chat, (speaker, words) in _CHATS.items():
            if chat in names:
                return lambda record: _first_exchange(record[names[chat]], names[chat], speaker, words, fixed)
    prompt_field = source.prompt_field or next((names[name] for name in _SCHEMAS if name in names), None)
    if prompt_field is None:
        raise DataError(
            f"{source.name}: no field is known as a prompt ({', '.join((*_SCHEMAS, *_CHATS))}); "
            f"columns found: {', '.join(sample)}; set `prompt_field`"
        )
    _require(prompt_field, sample, source, "prompt_field")
    answer = None if fixed else _answer_field(prompt_field, names, sample, source)
    extra = names.get("input") if prompt_field.casefold() == "instruction" and source.prompt_field is None else None

    def read(record: Record) -> tuple[str, str]:
        prompt = _text(record, prompt_field)
        if extra is not None and record.get(extra) and _text(record, extra).strip():
            prompt = f"{prompt}\n\n{_text(record, extra)}"
        return prompt, "" if answer is None else _text(record, answer)

    return read


def _answer_field(prompt_field: str, names: Mapping[str, str], sample: Record, source: DataSource) -> str:
    if source.response_field is not None:
        _require(source.response_field, sample, source, "response_field")
        return source.response_field
    known = _SCHEMAS.get(prompt_field.casefold(), _SCHEMAS["prompt"])
    found = next((name for name in known if name in names), None)
    if found is None:
        raise DataError(
            f"{source.name}: no answer field beside {prompt_field!r}; columns found: {', '.join(sample)}; set "
            "`response_field`, or `response:` to one fixed refusal for all rows"
        )
    if found in _HARMFUL_ANSWERS:
        raise DataError(
            f"{source.name}: its {names[found]!r} field holds what an attacker wants to read, not a refusal; set "
            f"`response:` to the refusal (or `response_field: {names[found]}` if it really is a good answer)"
        )
    return names[found]


def _require(field: str, sample: Record, source: DataSource, option: str) -> None:
    if field not in sample:
        raise DataError(f"{source.name}: no field {field!r} ({option}); columns found: {', '.join(sample)}")


def _text(record: Record, field: str) -> str:
    value = record[field]
    if not isinstance(value, str):
        raise TypeError(f"field {field!r} is {type(value).__name__} {str(value)[:40]!r}, expected text")
    return value


def _first_exchange(turns: Any, field: str, speaker: str, words: str, fixed: bool) -> tuple[str, str]:
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise TypeError(f"field {field!r} is not a list of messages with {speaker!r} and {words!r}")
    asked: list[str] = []
    for turn in turns:
        if turn[speaker] in _ASSISTANTS:
            return "\n\n".join(asked), _text(turn, words)
        if turn[speaker] in _USERS and fixed:
            return "\n\n".join([*asked, _text(turn, words)]), ""
        asked.append(_text(turn, words))
    raise TypeError(f"field {field!r} has no message of {' or '.join(sorted(_ASSISTANTS))}")
