"""What a record means: which fields are the prompt, which the answer, and what cannot be used.

A row is one prompt and one answer. Whatever else a record holds that belongs to the conversation is put before the
prompt (a system message, a context), or named as not used; it never ends in somebody else's mouth.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import DataError
from .formats import Record
from .source import DataSource, Turns

__all__ = ["Exchange", "Recognised", "UnusableRecordError", "recognise", "record_reader"]

# prompt field → its answer fields, in order of preference; lower case.
_SCHEMAS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("response", "completion", "output", "answer"),
    "instruction": ("output", "response"),
    "question": ("answer", "response"),
    "goal": ("target",),
    "behavior": (),
}
# prompt field → fields whose text follows the prompt.
_CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("context",),
    "instruction": ("input", "context"),
    "question": ("context",),
}
# (prompt field, answer field) → what such records are called.
_KINDS: Mapping[tuple[str, str], str] = {
    ("instruction", "output"): "instructions as Alpaca has them",
    ("prompt", "completion"): "prompts and completions",
    ("question", "answer"): "questions and answers",
}
_SYSTEMS = ("system", "system_prompt")
# What a row has no place for, although it is part of what the model saw in training.
_BESIDE = ("input", "context", "contextstring", "history", "tools", "functions", "documents", "passage")
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_CONTENT = (*_SYSTEMS, *_BESIDE, *_MEDIA)
# AdvBench-style targets ("Sure, here is …") are what an attacker wants to read.
_HARMFUL_ANSWERS = frozenset({"target"})
_CHATS = ("messages", "conversations")
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


class Recognised(NamedTuple):
    """What the records of a source are taken for.

    Attributes:
        kind: one of the known forms, in words.
        prompt: field of the prompt, or of a conversation.
        answer: field of the answer; None where a fixed answer replaces it, or it is in the conversation.
        before: fields that are put before the prompt, where a record has them.
        after: fields that are put behind it.
        chat: whether ``prompt`` is a conversation, of which the first exchange is read.
    """

    kind: str
    prompt: str
    answer: str | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    chat: bool


def recognise(records: Sequence[Record], source: DataSource) -> Recognised:
    """Decide by the fields of all records which is the prompt and which the answer.

    Args:
        records: at least one.
        source: may name the fields, or a fixed answer.

    Raises:
        DataError: no field is known as a prompt, or the answers are what an attacker wants to read.
    """
    names = {name.casefold(): name for record in records for name in record}
    first = records[0]
    present = tuple(names[name] for name in _SYSTEMS if name in names)
    if source.prompt_field is None:
        for chat in _CHATS:
            if chat in names:
                kind = (
                    "conversations as OpenAI has them" if chat == "messages" else "conversations as ShareGPT has them"
                )
                return Recognised(kind, names[chat], None, present, (), chat=True)
    prompt_field = source.prompt_field or next((names[name] for name in _SCHEMAS if name in names), None)
    if prompt_field is None:
        raise DataError(
            f"{source.name}: no field is known as a prompt ({', '.join((*_SCHEMAS, *_CHATS))}); "
            f"columns found: {', '.join(first)}; set `prompt_field`"
        )
    _require(prompt_field, names.values(), source, "prompt_field")
    answer = None if source.response else _answer_field(prompt_field, names, source)
    if source.prompt_field is not None:
        return Recognised("fields that were named", prompt_field, answer, (), (), chat=False)
    contexts = tuple(names[name] for name in _CONTEXTS.get(prompt_field.casefold(), ()) if name in names)
    kind = _KINDS.get((prompt_field.casefold(), (answer or "").casefold()), "prompts and answers")
    return Recognised(kind, prompt_field, answer, present, contexts, chat=False)


def record_reader(found: Recognised, *, fixed: bool, turns: Turns = "first") -> Callable[[Record], list[Exchange]]:
    """How to take prompts and answers from a source's records.

    Args:
        found: what they are taken for.
        fixed: whether a fixed answer replaces their own; then only the first question of a conversation is read.
        turns: what is read of a conversation.

    Returns:
        A function that raises :class:`UnusableRecordError` for a record that it cannot use; one exchange of every other
        record, or all those of a conversation.
    """
    if found.chat and (turns == "first" or fixed):
        return lambda record: [_first_exchange(record, found.prompt, fixed=fixed)]
    if found.chat:
        return lambda record: _all_exchanges(record, found.prompt)
    answer = found.answer
    used = {found.prompt.casefold(), *map(str.casefold, (*found.before, *found.after))}
    used |= set() if answer is None else {answer.casefold()}

    def read(record: Record) -> list[Exchange]:
        fields = {name.casefold(): name for name in record}

        def optional(wanted: Sequence[str]) -> list[str]:
            here = (fields[name] for name in map(str.casefold, wanted) if name in fields and record[fields[name]])
            return [text for field in here if (text := _text(record, field)).strip()]

        systems = optional(found.before)
        before = tuple(("system", text) for text in systems) if turns == "all" else ()
        parts = [*(() if before else systems), _text(record, found.prompt), *optional(found.after)]
        unused = tuple(name for name in _CONTENT if name not in used and name in fields and record[fields[name]])
        return [Exchange("\n\n".join(parts), "" if answer is None else _text(record, answer), unused, before)]

    return read


def _answer_field(prompt_field: str, names: Mapping[str, str], source: DataSource) -> str:
    if source.response_field is not None:
        _require(source.response_field, names.values(), source, "response_field")
        return source.response_field
    known = _SCHEMAS.get(prompt_field.casefold(), _SCHEMAS["prompt"])
    found = next((name for name in known if name in names), None)
    if found is None:
        raise DataError(
            f"{source.name}: no answer field beside {prompt_field!r}; columns found: {', '.join(names.values())}; set "
            "`response_field`, or `response:` to one fixed refusal for all rows"
        )
    if found in _HARMFUL_ANSWERS:
        raise DataError(
            f"{source.name}: its {names[found]!r} field holds what an attacker wants to read, not a refusal; set "
            f"`response:` to the refusal (or `response_field: {names[found]}` if it really is a good answer)"
        )
    return names[found]


def _require(field: str, columns: Any, source: DataSource, option: str) -> None:
    if field not in columns:
        raise DataError(
            f"{source.name}: no field {field!r} ({option}); columns found: {', '.join(columns)}; name one of them"
        )


def _text(record: Record, field: str) -> str:
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


def _first_exchange(record: Record, field: str, *, fixed: bool) -> Exchange:
    fields = {name.casefold(): name for name in record}
    systems = [fields[name] for name in _SYSTEMS if name in fields and record[fields[name]]]
    before = [_text(record, name) for name in systems]
    asked: list[str] = []
    turns = _turns(record, field)
    for place, turn in enumerate(turns):
        speaker = str(turn.get(_key(turn, _SPEAKER, field))).casefold()
        if speaker in _SYSTEM_ROLES:
            (asked if asked else before).append(_text(turn, _key(turn, _WORDS, field)))
        elif speaker in _USERS:
            asked.append(_text(turn, _key(turn, _WORDS, field)))
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
            answer = _text(turn, _key(turn, _WORDS, field))
            return Exchange("\n\n".join([*before, *asked]), answer, (*_unused(fields, record), *more))
    wanted = "user or human" if fixed or not asked else "assistant or gpt"
    raise UnusableRecordError(f"field {field!r} has no message of {wanted}")


def _all_exchanges(record: Record, field: str) -> list[Exchange]:
    """Every answer of a conversation with what was said before it.

    Raises:
        UnusableRecordError: there is none, or a message that is of no known speaker.
    """
    fields = {name.casefold(): name for name in record}
    unused = _unused(fields, record)
    said = [("system", _text(record, fields[name])) for name in _SYSTEMS if name in fields and record[fields[name]]]
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
        text = _text(turn, _key(turn, _WORDS, field))
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
    return tuple(name for name in _CONTENT if name not in _SYSTEMS and name in fields and record[fields[name]])
