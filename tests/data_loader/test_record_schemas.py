"""Records as people have them: all of a conversation is used or named, and one bad record stops nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from sst_merge.data_loader import DataSource, LoadedRows, Row, encode_each, load_rows, read_rows
from sst_merge.errors import DataError

ASK, SAY = {"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}


def loaded(folder: Path, *records: Any, **options: Any) -> LoadedRows:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_rows(DataSource(path=str(file), **options))


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"instruction": "p", "context": "c", "response": "r", "category": "qa"}, "p\n\nc"),
        ({"instruction": "p", "context": "", "response": "r"}, "p"),
        ({"instruction": "p", "input": "i", "Context": "c", "output": "r"}, "p\n\ni\n\nc"),
        ({"question": "p", "context": "c", "answer": "r"}, "p\n\nc"),
        ({"system_prompt": "s", "question": "p", "response": "r"}, "s\n\np"),
        ({"system": "s", "instruction": "p", "input": "i", "output": "r"}, "s\n\np\n\ni"),
        ({"system": None, "prompt": "p", "completion": "r"}, "p"),
        ({"system": "s", "conversations": [ASK, SAY]}, "s\n\np"),
        ({"conversations": [ASK, SAY]}, "p"),
        ({"messages": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]}, "p"),
        ({"messages": [{"role": "User", "content": "p"}, {"role": "model", "content": "r"}]}, "p"),
        ({"messages": [{"role": "developer", "content": "s"}, ASK, SAY]}, "s\n\np"),
        ({"messages": [{"role": "assistant", "content": "welcome"}, ASK, SAY]}, "p"),
        ({"messages": [ASK, {"role": "user", "content": "more"}, SAY]}, "p\n\nmore"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "p"}]}, SAY]}, "p"),
        ({"messages": json.dumps([ASK, SAY])}, "p"),
    ],
)
def test_what_a_format_holds_is_used(record: Any, prompt: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, record) == LoadedRows([Row(prompt, "r")], ())


@pytest.mark.parametrize(
    ("record", "unused"),
    [
        ({"instruction": "p", "output": "r", "history": [["a", "b"]]}, "history"),
        ({"prompt": "p", "response": "r", "input": "i"}, "input"),
        ({"messages": [ASK, SAY], "tools": "[{}]"}, "tools"),
        ({"messages": [ASK, SAY, ASK, SAY]}, "later turns"),
        ({"Behavior": "p", "ContextString": "c"}, "contextstring"),
        ({"prompt": "p", "response": "r", "images": ["x.png"]}, "images"),
    ],
)
def test_what_a_row_has_no_place_for_is_named(record: Any, unused: str, tmp_path: Path) -> None:
    found = loaded(tmp_path, record, response="r")
    assert found.rows == [Row("p", "r")]
    # With a fixed answer a conversation ends where it is given.
    if unused != "later turns":
        assert len(found.notes) == 1 and f"1 record has {unused}, not used" in found.notes[0]
    if "Behavior" not in record:
        assert any(unused in note for note in loaded(tmp_path, record).notes)


BAD = [
    ({"messages": []}, "no message of user or human"),
    ({"messages": [ASK]}, "no message of assistant or gpt"),
    ({"messages": None}, "is not a list of messages"),
    ({"messages": "no list"}, "is not a list of messages"),
    ({"messages": "[" * 50_000}, "is not a list of messages"),
    ({"messages": [ASK, {"role": "narrator", "content": "x"}, SAY]}, "a message of 'narrator'"),
    ({"messages": [ASK, {"content": "x"}, SAY]}, "a message without 'role' or 'from'"),
    ({"messages": [ASK, {"role": "assistant"}]}, "a message without 'content' or 'value'"),
    (
        {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "the use of a tool by 'assistant'",
    ),
    ({"messages": [ASK, {"role": "assistant", "content": None}]}, "'content' is empty (null), expected text"),
    (
        {"messages": [ASK, {"role": "tool", "content": "42"}, SAY]},
        "a message of the tool 'tool' before the first answer",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, SAY]},
        "'content' holds image, expected text",
    ),
    ({"other": 1}, "field 'messages' is missing; it has other"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_one_bad_record_is_shown_and_skipped(bad: Any, reason: str, tmp_path: Path) -> None:
    found = loaded(tmp_path, {"messages": [ASK, SAY]}, bad)
    assert found.rows == [Row("p", "r")]
    assert len(found.notes) == 1 and "1 of 2 records are skipped: record 2: " in found.notes[0]
    assert reason in found.notes[0] and len(found.notes[0]) < 500
    with pytest.raises(DataError, match="none of its 1 records has a prompt and an answer") as caught:
        loaded(tmp_path, bad) if "messages" in bad else loaded(tmp_path, {"messages": []})
    assert "record 1: " in str(caught.value)


def test_a_share_of_bad_records_is_allowed_and_three_are_shown(tmp_path: Path) -> None:
    good = [{"prompt": f"p{i}", "response": "r"} for i in range(40)]
    bad = [{"prompt": f"q{i}", "response": i} for i in range(6)]
    with pytest.raises(DataError, match=r"6 of 46 records cannot be used, more than max_unusable = 0\.1.*and 3 more"):
        loaded(tmp_path, *good, *bad)
    found = loaded(tmp_path, *good, *bad, max_unusable=0.2)
    assert len(found.rows) == 40 and found.notes[0].count("expected text") == 3 and "and 3 more" in found.notes[0]
    assert loaded(tmp_path, *good, *bad[:3], max_unusable=0).rows == found.rows
    blank = loaded(tmp_path, *good, {"prompt": "q", "response": " "}, {"prompt": "", "response": "r"})
    assert blank.rows == found.rows
    assert "2 of 42 records are blank and skipped: record 41: a blank answer; record 42: a blank p" in blank.notes[0]


GOOD = [json.dumps({"prompt": f"p{i}", "response": "r"}) for i in range(40)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "cut in the mid', "line 41: not JSON (Invalid control character"),
        ("{'prompt': 'p', 'response': 'r'}", "line 41: not JSON (Expecting property name"),
        ('["p", "r"]', "line 41: a JSON list, expected an object"),
        ("null", "line 41: a JSON NoneType"),
        ('{"prompt": "\\ud800", "response": "r"}', "line 41: not JSON (a text holds half of a surrogate pair"),
        ("[" * 50_000, "line 41: not JSON (nested too deeply)"),
    ],
)
def test_a_broken_line_counts_as_a_record_that_cannot_be_used(line: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*GOOD, line, GOOD[0].replace("p0", "last")]))
    found = read_rows(DataSource(path=file))
    assert [row.prompt for row in found.rows] == [*(f"p{i}" for i in range(40)), "last"]
    assert len(found.notes) == 1 and found.notes[0].startswith(f"{file}: 1 of 42 records are skipped: {reason}")
    file.write_text("\n".join([*GOOD, *[line] * 5]))
    with pytest.raises(DataError, match=r"5 of 45 records cannot be used, more than max_unusable = 0\.1") as caught:
        read_rows(DataSource(path=file))
    assert reason in str(caught.value) and "and 2 more" in str(caught.value)
    file.write_text(line)
    with pytest.raises(DataError, match=r"rows\.jsonl: no record can be read: line 1: "):
        read_rows(DataSource(path=file))


def test_broken_records_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\np,r\nq,r,too many\ns\n")
    (tmp_path / "rows.json").write_text('[{"prompt": "p", "response": "r"}, "q", null]')
    for name, first in (("rows.csv", "record 2: its number of fields"), ("rows.json", "record 2: a JSON str")):
        found = read_rows(DataSource(path=tmp_path / name))
        assert found.rows == [Row("p", "r")]
        assert f"2 of 3 records are skipped: {first}" in found.notes[0]


def test_python_is_warned(tmp_path: Path) -> None:
    loaded(tmp_path, {"prompt": "p", "response": "r"}, {"prompt": "q"})
    with pytest.warns(UserWarning, match="1 of 2 records are skipped: record 2: field 'response' is missing"):
        assert load_rows(DataSource(path=str(tmp_path / "rows.jsonl"))) == [Row("p", "r")]


TALK = [
    {"role": "system", "content": "s"},
    ASK,
    SAY,
    {"role": "user", "content": "q2"},
    {"role": "user", "content": "q3"},
    {"role": "assistant", "content": "r3"},
]


def test_all_turns_of_a_conversation_are_rows(tmp_path: Path) -> None:
    first = (("system", "s"),)
    second = (*first, ("user", ASK["content"]), ("assistant", SAY["content"]))
    expected = [Row(ASK["content"], SAY["content"], first), Row("q2\n\nq3", "r3", second)]
    found = loaded(tmp_path, {"messages": TALK}, turns="all")
    assert found.rows == expected and found.notes == ()
    tool = [*TALK, ASK, {"role": "assistant", "content": "", "tool_calls": [{}]}, SAY]
    found = loaded(tmp_path, {"messages": tool}, turns="all")
    assert found.rows == expected and "turns after the use of a tool" in found.notes[0]
    # Another beginning makes the same question another one; without one it is the same.
    talks = [{"messages": talk} for talk in (TALK[1:3], TALK[:3], TALK[1:3])]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    rows = read_rows(DataSource(path=tmp_path / "talks.json", turns="all")).rows
    assert [row.before for row in rows] == [(), first]
    assert loaded(tmp_path, {"system": "s", "prompt": "q", "response": "r"}, turns="all").rows == [Row("q", "r", first)]
    # A fixed answer is one to the first question.
    assert len(loaded(tmp_path, {"messages": TALK}, turns="all", response="no").rows) == 1


def test_all_turns_are_messages_of_the_template(base: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    row = Row("who", "yes .", (("system", "no ."), ("user", "what"), ("assistant", "how")))
    (encoded,) = encode_each([row], tokenizer)
    turns = [{"role": role, "content": text} for role, text in (*row.before, ("user", "who"))]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert list(encoded.ids[: encoded.asked]) == tokenizer(asked, add_special_tokens=False)["input_ids"]
    plain, bare = (
        encode_each([r], tokenizer, template="plain")[0] for r in (row, Row("no .\nwhat\nhow\nwho", "yes ."))
    )
    assert plain == bare
