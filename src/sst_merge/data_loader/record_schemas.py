"""What a record means: which fields are the prompt, which the answer, and what cannot be used.

A row is one prompt and one answer. Whatever else a record holds that belongs to the conversation is put before the
prompt (a system message, a context), or named as not used; it never ends in somebody else's mouth.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import DataError
from .exchanges import CONTENT, SYSTEMS, Exchange, UnusableRecordError, all_exchanges, first_exchange, text_of
from .formats import Record
from .source import DataSource, Turns

__all__ = ["Recognised", "UnusableRecordError", "recognise", "record_reader"]

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
# AdvBench-style targets ("Sure, here is …") are what an attacker wants to read.
_HARMFUL_ANSWERS = frozenset({"target"})
_CHATS = ("messages", "conversations")


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
    present = tuple(names[name] for name in SYSTEMS if name in names)
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
        return lambda record: [first_exchange(record, found.prompt, fixed=fixed)]
    if found.chat:
        return lambda record: all_exchanges(record, found.prompt)
    answer = found.answer
    used = {found.prompt.casefold(), *map(str.casefold, (*found.before, *found.after))}
    used |= set() if answer is None else {answer.casefold()}

    def read(record: Record) -> list[Exchange]:
        fields = {name.casefold(): name for name in record}

        def optional(wanted: Sequence[str]) -> list[str]:
            here = (fields[name] for name in map(str.casefold, wanted) if name in fields and record[fields[name]])
            return [text for field in here if (text := text_of(record, field)).strip()]

        systems = optional(found.before)
        before = tuple(("system", text) for text in systems) if turns == "all" else ()
        parts = [*(() if before else systems), text_of(record, found.prompt), *optional(found.after)]
        unused = tuple(name for name in CONTENT if name not in used and name in fields and record[fields[name]])
        return [Exchange("\n\n".join(parts), "" if answer is None else text_of(record, answer), unused, before)]

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
