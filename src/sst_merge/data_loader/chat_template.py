"""Chat templates are programs of other people: rendered apart, with limits on time and memory.

A template comes with a tokenizer, and may fail, loop for ever, or write more than there is memory. So all conversations
of a call are rendered in one child process that does nothing else. Where the system cannot fork (Windows, or no memory
for a copy of this process), they are rendered here, without limits.
"""

import json
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Conversation", "TemplateFailure", "chat_template", "check_chat_template", "render_chats"]

_SECONDS, _SECONDS_A_CHAT = 20.0, 0.05
_MEMORY = 1 << 30
_OUTPUT, _OUTPUT_A_CHARACTER = 1 << 20, 20


@dataclass(frozen=True)
class Conversation:
    """What a template is asked to write.

    Attributes:
        turns: messages with ``role`` and ``content``.
        generation: whether the beginning of the next answer follows.
    """

    turns: Sequence[Mapping[str, str]]
    generation: bool


@dataclass(frozen=True)
class TemplateFailure:
    """Why there is no text.

    Attributes:
        reason: one line.
    """

    reason: str


def chat_template(tokenizer: "PreTrainedTokenizerBase", name: str | None = None) -> str | None:
    """The text of a tokenizer's chat template.

    Args:
        tokenizer: may have one, several with names, or none.
        name: which of several; ``default`` where it is None, or the only one.

    Returns:
        The template, or None where there is none.

    Raises:
        DataError: several templates and none of that name.
    """
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        wanted = name or ("default" if "default" in found or len(found) != 1 else next(iter(found)))
        if wanted not in found:
            raise DataError(
                f"tokenizer {tokenizer.name_or_path!r} has chat templates called {', '.join(map(repr, sorted(found)))}"
                f", none of them {wanted!r}; name one (`template_name`), or use `template: plain`"
            )
        found = found[wanted]
    elif name is not None:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path!r} has {'one chat template' if found else 'no chat template'} without "
            f"a name, not one called {name!r}; leave `template_name` out"
        )
    return found if found is None else str(found)


def check_chat_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Let a tokenizer write one question, and make a template that it has among several its only one.

    Raises:
        DataError: several templates and no default, or one that fails or takes too long.
    """
    template = chat_template(tokenizer)
    if template is None:
        return
    turns = [{"role": "user", "content": "question"}]
    (found,) = render_chats(tokenizer, template, [Conversation(turns, generation=True)])
    if isinstance(found, TemplateFailure):
        raise DataError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template fails for one question: {found.reason}; use "
            f"another tokenizer, or no template"
        )
    tokenizer.chat_template = template


def render_chats(
    tokenizer: "PreTrainedTokenizerBase", template: str, chats: Sequence[Conversation]
) -> list[str | TemplateFailure]:
    """Conversations as text, each by itself.

    Args:
        tokenizer: whose special tokens and functions the template knows.
        template: the template's text.
        chats: what to write.

    Returns:
        One text a conversation, or why there is none. Where the template takes too long or too much memory, all
        conversations fail with that reason.
    """
    seconds = _SECONDS + _SECONDS_A_CHAT * len(chats)
    reading, writing = os.pipe()
    child = _forked()
    if child is None:
        os.close(reading)
        os.close(writing)
        return [_rendered(tokenizer, template, chat) for chat in chats]
    if child == 0:
        os.close(reading)
        _work(tokenizer, template, chats, writing, seconds)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return [TemplateFailure(text[0]) if isinstance(text, list) else text for text in json.loads(answer)]
    late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
    reason = (
        f"it takes more than {seconds:.0f} s" if late else f"it ended its process; {_MEMORY >> 20} MiB may be too few"
    )
    return [TemplateFailure(reason)] * len(chats)


def _forked() -> int | None:
    """As ``os.fork``; None where that cannot be done."""
    if not hasattr(os, "fork"):
        return None
    with warnings.catch_warnings():
        # Threads of torch or tokenizers do not matter to a child that renders text and ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return os.fork()
        except OSError:
            return None


def _work(
    tokenizer: "PreTrainedTokenizerBase", template: str, chats: Sequence[Conversation], writing: int, seconds: float
) -> None:
    """What the child does; it does not come back."""
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _limit_memory()
        texts = [_rendered(tokenizer, template, chat) for chat in chats]
        plain = [[text.reason] if isinstance(text, TemplateFailure) else text for text in texts]
        with os.fdopen(writing, "wb") as stream:
            stream.write(json.dumps(plain).encode("ascii"))
        code = 0
    finally:
        # Nothing of the parent's may run twice: no exit handlers, no buffers, no exception.
        os._exit(code)


def _limit_memory() -> None:
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, hard))
    except (ImportError, OSError, ValueError):  # not Linux, or a lower limit already
        return


def _rendered(tokenizer: "PreTrainedTokenizerBase", template: str, chat: Conversation) -> str | TemplateFailure:
    turns: Any = [dict(turn) for turn in chat.turns]
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=chat.generation
        )
    # A template raises whatever its expressions do.
    except Exception as error:
        return TemplateFailure(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    if not isinstance(text, str):
        return TemplateFailure(f"it gives a {type(text).__name__}, no text")
    limit = _OUTPUT + _OUTPUT_A_CHARACTER * sum(len(str(turn.get("content", ""))) for turn in chat.turns)
    return text if len(text) <= limit else TemplateFailure(f"it writes {len(text)} characters, more than {limit}")
