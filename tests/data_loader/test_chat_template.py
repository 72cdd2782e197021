"""Chat templates of any kind: named, failing, endless, huge. Either the text that the model sees, or one message."""

import os
import time
from typing import Any

import pytest

from sst_merge.data_loader import Row, check_chat_template, encode_rows
from sst_merge.data_loader.chat_template import Conversation, TemplateFailure, render_chats
from sst_merge.errors import DataError

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <eot> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
REFUSES_ANSWERS = (
    "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('must end with the user') }}{% endif %}" + CHATML
)
ROWS = [Row("how are you", "fine"), Row("you", "fine you")]


@pytest.fixture
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<eot>", "<|user|>", "<|assistant|>", "how", "are", "you", "fine", "question", "other"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<eos>")


def texts(tokenizer: Any, **options: Any) -> list[str]:
    (batch,) = encode_rows(ROWS, tokenizer, **options)
    kept = zip(batch.input_ids, batch.attention_mask, strict=True)
    return sorted(tokenizer.decode(ids[mask.bool()]) for ids, mask in kept)


def test_texts_are_what_the_tokenizer_itself_writes(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    asked = [[{"role": "user", "content": row.prompt}] for row in ROWS]
    chats = [Conversation(turns, generation=True) for turns in asked]
    expected = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in asked]
    assert render_chats(tokenizer, CHATML, chats) == expected
    assert texts(tokenizer)[0] == "<|user|> how are you <eot> <|assistant|> fine <eot>"


def test_one_of_several_templates(tokenizer: Any) -> None:
    other = CHATML.replace("<eot>", "other")
    tokenizer.chat_template = {"default": CHATML, "tool_use": other}
    assert "<eot>" in texts(tokenizer)[0]
    assert "other" in texts(tokenizer, template_name="tool_use")[0]
    with pytest.raises(DataError, match=r"called 'default', 'tool_use', none of them 'rag'; name one"):
        texts(tokenizer, template_name="rag")
    tokenizer.chat_template = {"rag": CHATML, "tool_use": other}
    with pytest.raises(DataError, match=r"called 'rag', 'tool_use', none of them 'default'"):
        texts(tokenizer)
    assert texts(tokenizer, template="plain")[1] == "you fine you <eos>"
    tokenizer.chat_template = {"tool_use": other}
    assert "other" in texts(tokenizer)[0]
    tokenizer.chat_template = CHATML
    with pytest.raises(DataError, match="has one chat template without a name"):
        texts(tokenizer, template_name="rag")


def test_a_tokenizer_is_tried_before_others_use_it(tokenizer: Any) -> None:
    check_chat_template(tokenizer)
    tokenizer.chat_template = {"default": CHATML, "rag": "other"}
    check_chat_template(tokenizer)
    assert tokenizer.chat_template == CHATML
    tokenizer.chat_template = "{{ 1 // 0 }}"
    with pytest.raises(DataError, match="fails for one question: ZeroDivisionError"):
        check_chat_template(tokenizer)


def test_a_template_that_refuses_a_closing_turn_ends_with_the_end_token(tokenizer: Any) -> None:
    tokenizer.chat_template = REFUSES_ANSWERS
    assert texts(tokenizer)[0] == "<|user|> how are you <eot> <|assistant|> fine <eos>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no users here') }}", "TemplateError: no users here"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ messages[5]['content'] }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'x' * 3000000 }}", "it writes 3000000 characters"),
    ],
)
def test_a_template_that_fails_is_one_message(tokenizer: Any, template: str, reason: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=r"its chat template fails for the prompt .*use `template: plain`") as caught:
        texts(tokenizer)
    assert reason in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits need a child process")
@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{% set ns = namespace(x='x' * 1000000) %}{% for i in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}",
    ],
    ids=["endless", "one huge text", "a text that doubles", "many texts"],
)
def test_a_template_has_limited_time_and_memory(tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sst_merge.data_loader.chat_template._SECONDS", 0.7)
    monkeypatch.setattr("sst_merge.data_loader.chat_template._MEMORY", 1 << 27)
    began = time.perf_counter()
    (found,) = render_chats(tokenizer, template, [Conversation([{"role": "user", "content": "you"}], generation=True)])
    assert isinstance(found, TemplateFailure)
    assert time.perf_counter() - began < 20
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="its chat template fails"):
        texts(tokenizer)
