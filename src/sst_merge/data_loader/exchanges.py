"""What one record says: a field's text, and of a conversation the first exchange or all of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .formats import Record

__all__ = ["CONTENT", "SYSTEMS", "Exchange", "UnusableRecordError", "all_exchanges", "first_exchange", "text_of"]

SYSTEMS = ("system", "system_prompt")
# What a row has no place for, although it is part of what the model saw in training.
_BESIDE = ("input", "context", "contextstring", "history", "tools", "functions", "documents", "passage")
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
CONTENT = (*SYSTEMS, *_BESIDE, *_MEDIA)
_SPEAKER, _WORDS = ("role", "from"), ("content", "value")
_USERS = frozenset({"user", "human", "prompter"})
_ASSISTANTS = frozenset({"assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model"})
_SYSTEM_ROLES = frozenset({"system", "developer"})
_TOOLS = frozenset({"tool", "tool_call", "tool_response", "function", "function_call", "function_response"})
_TOOLS |= {"observation", "ipython"}


class UnusableRecordError(ValueError):
    """A record that gives no prompt and answer; the message says why."""


class Exchange(NamedTuple):
    """What a record gives.

    Attributes:
        prompt: what the user says, with all that is put before and after it.
        response: what the model answers; empty where a fixed answer replaces it.
        unused: what of the conversation is in neither.
        before: (role, text) of what was said before the prompt, where all turns are read.
    """

    prompt: str
    response: str
    unused: tuple[str, ...]
    before: tuple[tuple[str, str], ...] = ()


def text_of(record: Record, field: str) -> str:
    """A field's text, or the texts of its parts.

    Raises:
        UnusableRecordError: it is missing, empty, or something else.
    """
    if field not in record:
        raise UnusableRecordError(f"field {field!r} is missing; it has {', '.join(record)}")
    value = record[field]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return _parts(value, field)
    if value is None:
        raise UnusableRecordError(f"field {field!r} is empty (null), expected text")
    if not isinstance(value, str):
        raise UnusableRecordError(f"field {field!r} is {type(value).__name__} {str(value)[:40]!r}, expected text")
    return value


def _parts(parts: Sequence[Mapping[str, Any]], field: str) -> str:
    """A message in parts, as models of pictures and text have them.

    Raises:
        UnusableRecordError: a part that is no text.
    """
    others = sorted({str(part.get("type")) for part in parts if not isinstance(part.get("text"), str)})
    if others:
        raise UnusableRecordError(f"field {field!r} holds {' and '.join(others)[:40]}, expected text alone")
    return "\n\n".join(part["text"] for part in parts)


def _turns(record: Record, field: str) -> Sequence[Mapping[str, Any]]:
    if field not in record:
        raise UnusableRecordError(f"field {field!r} is missing; it has {', '.join(record)}")
    turns = record[field]
    if isinstance(turns, str):  # a column of a CSV file
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            turns = None
    if (
        not isinstance(turns, Sequence)
        or isinstance(turns, str)
        or not all(isinstance(turn, Mapping) for turn in turns)
    ):
        raise UnusableRecordError(f"field {field!r} is not a list of messages with {_SPEAKER[0]!r} and {_WORDS[0]!r}")
    return turns


def first_exchange(record: Record, field: str, *, fixed: bool) -> Exchange:
    """What a conversation begins with, and the first answer.

    Args:
        record: with a conversation.
        field: of it.
        fixed: whether a fixed answer replaces that of the record.

    Raises:
        UnusableRecordError: there is none, or a message that is of no known speaker.
    """
    fields = {name.casefold(): name for name in record}
    systems = [fields[name] for name in SYSTEMS if name in fields and record[fields[name]]]
    before = [text_of(record, name) for name in systems]
    asked: list[str] = []
    turns = _turns(record, field)
    for place, turn in enumerate(turns):
        speaker = str(turn.get(_key(turn, _SPEAKER, field))).casefold()
        if speaker in _SYSTEM_ROLES:
            (asked if asked else before).append(text_of(turn, _key(turn, _WORDS, field)))
        elif speaker in _USERS:
            asked.append(text_of(turn, _key(turn, _WORDS, field)))
            if fixed:
                return Exchange("\n\n".join([*before, *asked]), "", _unused(fields, record))
        elif speaker in _TOOLS or (speaker in _ASSISTANTS and turn.get("tool_calls")):
            what = "the use of a tool by" if speaker in _ASSISTANTS else "a message of the tool"
            raise UnusableRecordError(f"field {field!r} has {what} {speaker!r} before the first answer in words")
        elif speaker not in _ASSISTANTS:
            raise UnusableRecordError(
                f"field {field!r} has a message of {speaker[:40]!r}, expected user, assistant or system"
            )
        elif asked:  # what an assistant says before it is asked is no answer
            more = ("later turns",) if len(turns) > place + 1 else ()
            answer = text_of(turn, _key(turn, _WORDS, field))
            return Exchange("\n\n".join([*before, *asked]), answer, (*_unused(fields, record), *more))
    wanted = "user or human" if fixed or not asked else "assistant or gpt"
    raise UnusableRecordError(f"field {field!r} has no message of {wanted}")


def all_exchanges(record: Record, field: str) -> list[Exchange]:
    """Every answer of a conversation with what was said before it.

    Raises:
        UnusableRecordError: there is none, or a message that is of no known speaker.
    """
    fields = {name.casefold(): name for name in record}
    unused = _unused(fields, record)
    said = [("system", text_of(record, fields[name])) for name in SYSTEMS if name in fields and record[fields[name]]]
    asked: list[str] = []
    found: list[Exchange] = []
    for turn in _turns(record, field):
        speaker = str(turn.get(_key(turn, _SPEAKER, field))).casefold()
        if found and (speaker in _TOOLS or turn.get("tool_calls")):
            # What follows depends on what a tool said.
            return [*found[:-1], found[-1]._replace(unused=(*unused, "turns after the use of a tool"))]
        if speaker in _TOOLS or turn.get("tool_calls"):
            raise UnusableRecordError(f"field {field!r} has a use of a tool before the first answer in words")
        if speaker not in _SYSTEM_ROLES | _USERS | _ASSISTANTS:
            raise UnusableRecordError(
                f"field {field!r} has a message of {speaker[:40]!r}, expected user, assistant or system"
            )
        text = text_of(turn, _key(turn, _WORDS, field))
        if speaker in _USERS:
            asked.append(text)
        elif speaker in _SYSTEM_ROLES:
            said.append(("system", text))
        elif asked:  # what an assistant says before it is asked is no answer
            prompt = "\n\n".join(asked)
            found.append(Exchange(prompt, text, unused, tuple(said)))
            said += [("user", prompt), ("assistant", text)]
            asked = []
    if not found:
        raise UnusableRecordError(
            f"field {field!r} has no message of {'assistant or gpt' if asked else 'user or human'}"
        )
    return found


def _key(turn: Mapping[str, Any], known: Sequence[str], field: str) -> str:
    found = next((name for name in known if name in turn), None)
    if found is None:
        raise UnusableRecordError(f"field {field!r} has a message without {' or '.join(map(repr, known))}")
    return found


def _unused(fields: Mapping[str, str], record: Record) -> tuple[str, ...]:
    return tuple(name for name in CONTENT if name not in SYSTEMS and name in fields and record[fields[name]])
