"""Rows to batches: token boundaries as generation sees them, labels on the answer only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DataError
from .chat_template import Conversation, TemplateFailure, chat_template, render_chats
from .rows import RowLike
from .source import Template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .batch import Batch

__all__ = ["EncodedRow", "encode_each", "encode_rows", "pad_rows"]


class EncodedRow(NamedTuple):
    """One row as the model reads it.

    Attributes:
        ids: prompt and answer, at most `max_length`.
        asked: how many of them are the prompt's; the others carry the loss.
        cut: tokens that were left out for `max_length`.
    """

    ids: tuple[int, ...]
    asked: int
    cut: int


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer's format puts around a conversation of one prompt and one answer.

    Attributes:
        start: ids before the prompt that its text does not contain.
        context: text between the generation prompt and the answer that is not the answer's (an empty think block).
        lead: white space that the template puts before the answer; the model generates it, so it is labelled.
        end: ids that end the answer.
    """

    start: tuple[int, ...]
    context: str
    lead: str
    end: tuple[int, ...]


def encode_rows(
    rows: Sequence[RowLike],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    template: Template = "auto",
    template_name: str | None = None,
    max_length: int = 512,
    batch_size: int = 8,
    batch_tokens: int | None = None,
    device: "torch.device | str | None" = None,
) -> "list[Batch]":
    """Tokenise rows into right-padded batches of similar length.

    Text is the generation prompt of the chat template (or prompt and newline), then the answer, tokenised together.
    Where the prompt's own ids are not a prefix of those ids (a token would span the border), the ids are the prompt's
    followed by the answer's, because that is what generation sees. After the answer comes what the template puts
    there (its end-of-turn token), else the end-of-sequence token; it is labelled, what follows it is left out.

    Longer rows lose the end of their answer; where the prompt alone fills `max_length`, the prompt loses its beginning
    instead (never its beginning-of-sequence token) and keeps at least half of the room.

    Args:
        rows: prompts and answers.
        tokenizer: of the base model.
        template: ``chat``, ``plain`` or ``auto`` (chat where the tokenizer has a template).
        template_name: which of the tokenizer's chat templates, where it has several.
        max_length: longest sequence in tokens.
        batch_size: rows in a batch.
        batch_tokens: tokens in a batch instead, padding included, so that a batch of short rows holds many and one of
            long rows few; a row that is longer is a batch by itself.
        device: where the tensors go; the CPU by default.

    Returns:
        Batches of (b, t) tensors, rows sorted by length; labels are -100 outside the answer, padding has mask 0.

    Raises:
        DataError: no rows, a row without answer tokens, ``chat`` with a tokenizer that has no template, several
            templates and none named, or one that fails or takes too long.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from sst_merge import encode_rows
        >>> from sst_merge.data_loader import Row
        >>> words = Tokenizer(models.WordLevel({"<eos>": 0, "how": 1, "are": 2, "you": 3, "fine": 4}))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
        >>> (batch,) = encode_rows([Row("how are you", "fine")], tokenizer)
        >>> batch.input_ids, batch.labels
        (tensor([[1, 2, 3, 4, 0]]), tensor([[-100, -100, -100,    4,    0]]))
    """
    if batch_size < 1:
        raise DataError(f"batch_size = {batch_size}; expected at least 1")
    if batch_tokens is not None and batch_tokens < 1:
        raise DataError(f"batch_tokens = {batch_tokens}; expected at least 1, or None for batches of batch_size rows")
    encoded = encode_each(rows, tokenizer, template=template, template_name=template_name, max_length=max_length)
    encoded.sort(key=lambda row: len(row.ids))
    if batch_tokens is None:
        parts = [encoded[i : i + batch_size] for i in range(0, len(encoded), batch_size)]
    else:
        parts = _within(encoded, batch_tokens)
    return [pad_rows(part, tokenizer, device) for part in parts]


def _within(rows: Sequence[EncodedRow], tokens: int) -> list[list[EncodedRow]]:
    """Rows of rising length in as few parts as hold so many tokens, each row as long as the last of its part."""
    parts: list[list[EncodedRow]] = []
    for row in rows:
        if parts and (len(parts[-1]) + 1) * len(row.ids) <= tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def encode_each(
    rows: Sequence[RowLike],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    template: Template = "auto",
    template_name: str | None = None,
    max_length: int = 512,
) -> list[EncodedRow]:
    """Tokenise rows as :func:`encode_rows` does, without putting them into batches.

    Args:
        rows: prompts and answers.
        tokenizer: of the base model.
        template: ``chat``, ``plain`` or ``auto`` (chat where the tokenizer has a template).
        template_name: which of the tokenizer's chat templates, where it has several.
        max_length: longest sequence in tokens.

    Returns:
        One record a row, in their order.

    Raises:
        DataError: as :func:`encode_rows`.
    """
    if not rows:
        raise DataError("no rows to encode; the data set is empty")
    if max_length < 2:
        raise DataError(f"max_length = {max_length}; expected at least 2")
    chat = None if template == "plain" else chat_template(tokenizer, template_name)
    if chat is None:
        if template == "chat":
            raise DataError(
                f"tokenizer {tokenizer.name_or_path!r} has no chat template; use `template: plain` or `auto`"
            )
        frame, asked = _plain_frame(tokenizer), ["".join(f"{text}\n" for _, text in _messages(row)) for row in rows]
    else:
        frame, asked = _chat_frame(rows, tokenizer, chat)
    return [_encode(row, text, tokenizer, frame, max_length) for row, text in zip(rows, asked, strict=True)]


def pad_rows(
    rows: Sequence[EncodedRow], tokenizer: "PreTrainedTokenizerBase", device: "torch.device | str | None" = None
) -> "Batch":
    """One right-padded batch.

    Args:
        rows: at least one, in the order of the batch.
        tokenizer: says which token pads.
        device: where the tensors go; the CPU by default.

    Returns:
        (b, t) tensors; labels are -100 outside the answer, padding has mask 0.
    """
    import torch

    from .batch import IGNORED, Batch

    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    shape = (len(rows), max(len(row.ids) for row in rows))
    input_ids = torch.full(shape, padding, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, (ids, asked, _) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
        labels[index, asked : len(ids)] = torch.tensor(ids[asked:])
    return Batch(input_ids=input_ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))


def _eos(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def _plain_frame(tokenizer: "PreTrainedTokenizerBase") -> _Frame:
    # Only the beginning-of-sequence token: some tokenizers also close every text, which would cut off the answer.
    bos = tokenizer.bos_token_id
    opens = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return _Frame((int(bos),) if opens else (), "", "", _eos(tokenizer))


def _chat_frame(
    rows: Sequence[RowLike], tokenizer: "PreTrainedTokenizerBase", template: str
) -> tuple[_Frame, list[str]]:
    """What a chat template puts around an answer, and the text before the answer of every row.

    Raises:
        DataError: the template fails for a prompt.
    """
    # Where a known answer lands tells what the template puts before and after it.
    question, answer = "question", "qzanswerzq"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    chats = [Conversation(turns[:1], generation=True), Conversation(turns, generation=False)]
    said = [[{"role": role, "content": text} for role, text in _messages(row)] for row in rows]
    chats += [Conversation(messages, generation=True) for messages in said]
    probe, full, *texts = render_chats(tokenizer, template, chats)
    asked = []
    for text, prompt in zip([probe, *texts], [question, *(row.prompt for row in rows)], strict=True):
        if isinstance(text, TemplateFailure):
            raise DataError(
                f"tokenizer {tokenizer.name_or_path!r}: its chat template fails for the prompt {prompt[:60]!r}: "
                f"{text.reason}; use `template: plain`, or another tokenizer"
            )
        asked.append(text)
    return _around(tokenizer, asked[0], full, answer), asked[1:]


def _messages(row: RowLike) -> list[tuple[str, str]]:
    """Role and text of all that is said before a row's answer."""
    return [*getattr(row, "before", ()), ("user", row.prompt)]


def _around(tokenizer: "PreTrainedTokenizerBase", asked: str, full: str | TemplateFailure, answer: str) -> _Frame:
    eos = _eos(tokenizer)
    # Some templates refuse a conversation that ends with an answer, or show past answers otherwise than new ones.
    if isinstance(full, TemplateFailure) or not full.startswith(asked) or answer not in full:
        return _Frame((), "", "", eos)
    before, after = full[len(asked) :].split(answer, 1)
    context, lead = ("", before) if not before.strip() else (before, "")
    end: tuple[int, ...] = tuple(_ids(tokenizer, after.strip())) if after.strip() else eos
    if eos and eos[0] in end:  # generation stops there, whatever else the template writes
        end = end[: end.index(eos[0]) + 1]
    return _Frame((), context, lead, end)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _encode(
    row: RowLike, asked: str, tokenizer: "PreTrainedTokenizerBase", frame: _Frame, max_length: int
) -> EncodedRow:
    """One row, at most `max_length` tokens.

    Raises:
        DataError: the answer has no tokens.
    """
    asked += frame.context
    prompt = _ids(tokenizer, asked)
    together = _ids(tokenizer, asked + frame.lead + row.response)
    joined = together[: len(prompt)] == prompt
    answer = together[len(prompt) :] if joined else _ids(tokenizer, frame.lead + row.response)
    if not answer:
        raise DataError(f"the answer {row.response[:60]!r} to {row.prompt[:60]!r} has no tokens; remove the row")
    prompt, answer = [*frame.start, *prompt], [*answer, *frame.end]
    length = len(prompt) + len(answer)
    if len(prompt) >= max_length:
        prompt = _keep_end(prompt, max(max_length // 2, max_length - len(answer)), tokenizer.bos_token_id)
    ids = tuple((prompt + answer)[:max_length])
    return EncodedRow(ids, len(prompt), length - len(ids))


def _keep_end(prompt: list[int], length: int, bos: int | None) -> list[int]:
    if bos is not None and prompt[0] == bos and length > 1:
        return [bos, *prompt[len(prompt) - length + 1 :]]
    return prompt[len(prompt) - length :]
