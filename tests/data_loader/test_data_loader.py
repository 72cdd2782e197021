import csv
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sst_merge.data_loader import DataSource, Row, encode_rows, load_rows, normalise_prompt, split_rows
from sst_merge.errors import DataError

RECORDS = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(20)]
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|user|>", "<|assistant|>", "<|end|>"]


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def source(path: Path, **options) -> DataSource:
    return DataSource(path=str(path), **options)


# --- files -------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path):
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.json").write_text(json.dumps(RECORDS))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, ["prompt", "response"])
        writer.writeheader()
        writer.writerows(RECORDS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    expected = [Row(f"question {i}", f"answer {i}") for i in range(20)]
    for name in ("a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.jsonl.xz"):
        assert load_rows(source(tmp_path / name)) == expected, name


def test_a_folder_that_the_hub_library_reads_gives_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set" / "train.jsonl", RECORDS)
    rows = load_rows(DataSource(dataset=str(tmp_path / "set"), split="train"))
    assert rows == [Row(record["prompt"], record["response"]) for record in RECORDS]
    with pytest.raises(DataError, match=r"split 'nothing'"):
        load_rows(DataSource(dataset=str(tmp_path / "set"), split="nothing"))


@pytest.mark.parametrize(
    ("record", "prompt", "response"),
    [
        ({"prompt": "p", "response": "r"}, "p", "r"),
        ({"template": "t", "prompt": "p", "completion": "r"}, "p", "r"),
        ({"instruction": "p", "input": "", "output": "r"}, "p", "r"),
        ({"instruction": "p", "input": "more", "output": "r", "history": []}, "p\n\nmore", "r"),
        ({"instruction": "p", "input": "more", "response": "r"}, "p\n\nmore", "r"),
        ({"Question": "p", "Answer": "r"}, "p", "r"),
        ({"question": "p", "Response": "r"}, "p", "r"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}, "p", "r"),
        (
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "p"},
                    {"role": "assistant", "content": "r"},
                    {"role": "user", "content": "later"},
                ]
            },
            "s\n\np",
            "r",
        ),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]}, "p", "r"),
    ],
)
def test_known_schemas(tmp_path, record, prompt, response):
    assert load_rows(source(write_lines(tmp_path / "a.jsonl", [record]))) == [Row(prompt, response)]


def test_named_fields_win_over_detection(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "no", "response": "no", "ask": "p", "say": "r"}])
    assert load_rows(source(path, prompt_field="ask", response_field="say")) == [Row("p", "r")]


def test_fixed_answers_override_and_are_drawn_by_seed(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", RECORDS)
    assert {row.response for row in load_rows(source(path, response="I refuse."))} == {"I refuse."}
    several = source(path, response=("no", "never"))
    first = load_rows(several, seed=1)
    assert {row.response for row in first} == {"no", "never"}
    assert first == load_rows(several, seed=1)
    assert first != load_rows(several, seed=2)
    # A row keeps its answer whichever sample it is part of.
    assert set(load_rows(source(path, response=("no", "never"), samples=7), seed=1)) <= set(first)


def test_prompts_without_answers_take_the_fixed_one(tmp_path):
    chat = write_lines(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "p"}]}])
    behaviour = write_lines(tmp_path / "behaviour.jsonl", [{"Behavior": "p", "Tags": ""}])
    goal = write_lines(tmp_path / "goal.jsonl", [{"goal": "p", "target": "Sure, here is"}])
    for path in (chat, behaviour, goal):
        assert load_rows(source(path, response="no")) == [Row("p", "no")]


def test_repeated_prompts_go_before_the_draw(tmp_path):
    repeated = [{"prompt": "  Question 3 ", "response": "other"}, {"prompt": "QUESTION 4", "response": "other"}]
    path = write_lines(tmp_path / "a.jsonl", RECORDS + repeated)
    rows = load_rows(source(path, samples=20))
    assert sorted(rows, key=str) == sorted((Row(r["prompt"], r["response"]) for r in RECORDS), key=str)


def test_draws_are_seeded_nested_and_without_replacement(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", RECORDS)
    small, large = (load_rows(source(path, samples=n), seed=3) for n in (5, 12))
    assert large[:5] == small
    assert len(set(large)) == 12
    assert load_rows(source(path, samples=12), seed=4) != large
    # Each row is drawn about equally often: 5 of 20 over 400 seeds is 100 times, standard deviation 8.7.
    counts = dict.fromkeys((r["prompt"] for r in RECORDS), 0)
    for seed in range(400):
        for row in load_rows(source(path, samples=5), seed=seed):
            counts[row.prompt] += 1
    assert all(abs(count - 100) < 5 * 8.7 for count in counts.values())


def test_where_keeps_matching_rows(tmp_path):
    records = [{"prompt": f"p{i}", "response": "r", "is_safe": i % 2 == 0} for i in range(6)]
    path = write_lines(tmp_path / "a.jsonl", records)
    assert [row.prompt for row in load_rows(source(path, where={"is_safe": True}))] == ["p0", "p2", "p4"]
    with pytest.raises(DataError, match=r"no record has is_safe = 'perhaps' left; values there: False, True"):
        load_rows(source(path, where={"is_safe": "perhaps"}))
    with pytest.raises(DataError, match=r"no field 'colour' \(where\)"):
        load_rows(source(path, where={"colour": 1}))


# --- refusals to load --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unsafe", [False, "False", 0])
def test_harmful_answers_are_refused(tmp_path, unsafe):
    records = [{"prompt": f"p{i}", "response": "harm", "is_safe": unsafe} for i in range(3)]
    path = write_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(DataError, match=r"3 of 3 answers are marked is_safe = false.*set `response:`"):
        load_rows(source(path))
    assert [row.response for row in load_rows(source(path, response="no"))] == ["no"] * 3
    target = write_lines(tmp_path / "b.jsonl", [{"goal": "p", "target": "Sure, here is"}])
    with pytest.raises(DataError, match=r"'target' field holds what an attacker wants"):
        load_rows(source(target))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither of `path` and `dataset`"),
        ({"path": "a.csv", "dataset": "b"}, "both of `path` and `dataset`"),
        ({"path": "a.csv", "split": "test"}, "`split`, `subset` and `revision` belong to"),
        ({"path": "a.csv", "revision": "v1"}, "belong to `dataset`"),
        ({"path": "a.csv", "samples": 0}, r"source a.csv: samples: .*equal to 1 \(found 0\)"),
        ({"path": "a.csv", "max_length": 1}, r"max_length: .*equal to 2 \(found 1\)"),
        ({"path": "a.csv", "template": "fancy"}, r"template: .*'auto', 'chat' or 'plain' \(found 'fancy'\)"),
        ({"path": "a.csv", "response": ("no", " ")}, "response: contains an empty answer"),
        ({"path": "a.csv", "response": ()}, "response: an empty list"),
    ],
)
def test_wrong_sources(options, message):
    with pytest.raises(DataError, match=message):
        DataSource(**options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.csv", "prompt,response\n", "is empty"),
        ("a.jsonl", '{"prompt": 1', "line 1: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: a JSON list"),
        ("a.json", '{"prompt": "p"}', "expected a list of objects"),
        ("a.json", '{"prompt": "p"}\n{"prompt": "q"}', "line 2: not JSON.*jsonl"),
        ("a.txt", "words", "unknown format"),
        ("a.csv", "prompt,response\np,r,more\n", "record 1: other number of fields|record 1: its number"),
        ("a.jsonl.gz", "words", "damaged or not .gz compressed"),
        ("a.jsonl", '{"title": "t", "body": "b"}\n', "columns found: title, body"),
        ("a.jsonl", '{"prompt": "p", "body": "b"}\n', "no answer field beside 'prompt'; columns found: prompt, body"),
        ("a.jsonl", '{"question": "p", "answer": 3}\n', "record 1: field 'answer' is int '3', expected text"),
        ("a.jsonl", '{"prompt": "p", "response": " "}\n', "none of its 1 records has a prompt and an answer"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "p"}]}\n', "record 1: .*no message of assistant or gpt"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(source(tmp_path / name))
    assert name in str(caught.value)


def test_missing_file_folder_encoding_and_count(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_rows(source(tmp_path / "missing.jsonl"))
    write_lines(tmp_path / "inside.jsonl", RECORDS)
    with pytest.raises(DataError, match=r"is a folder \(it holds inside.jsonl\)"):
        load_rows(source(tmp_path))
    (tmp_path / "latin.csv").write_bytes("prompt,response\ncafé,r\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_rows(source(tmp_path / "latin.csv"))
    with pytest.raises(DataError, match="20 distinct prompts, but samples = 21"):
        load_rows(source(tmp_path / "inside.jsonl", samples=21))
    with pytest.raises(DataError, match=r"no field 'ask' \(prompt_field\); columns found: prompt, response"):
        load_rows(source(tmp_path / "inside.jsonl", prompt_field="ask"))


# --- splits ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    numbers=st.lists(st.integers(0, 40), min_size=30, max_size=120),
    seed=st.integers(0, 5),
    fractions=st.sampled_from([(0.5, 0.5), (0.4, 0.3, 0.3), (0.5, 0.2)]),
)
def test_splits_are_disjoint_in_prompts_and_lose_nothing(numbers, seed, fractions):
    spellings = ("Prompt {}", "prompt  {}", " PROMPT {} ")
    rows = [Row(spellings[i % 3].format(number), str(i)) for i, number in enumerate(numbers)]
    prompts = {normalise_prompt(row.prompt) for row in rows}
    if len(prompts) < 8:
        return
    parts = split_rows(rows, fractions, seed=seed)
    keys = [{normalise_prompt(row.prompt) for row in part} for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert all(abs(len(key) - f * len(prompts)) <= 1 for key, f in zip(keys, fractions, strict=True))
    if sum(fractions) == 1:
        assert sorted((row for part in parts for row in part), key=str) == sorted(rows, key=str)
    backwards = split_rows(rows[::-1], fractions, seed=seed)
    assert [part[::-1] for part in backwards] == list(parts)


def test_wrong_splits():
    rows = [Row("p", "r"), Row("q", "r")]
    for fractions in ((), (0.7, 0.7), (1.0, 0.0)):
        with pytest.raises(DataError, match="positive numbers that sum to at most 1"):
            split_rows(rows, fractions, seed=0)
    with pytest.raises(DataError, match="leave part 2 empty"):
        split_rows(rows, (0.5, 0.4, 0.1), seed=0)


# --- tokens ------------------------------------------------------------------------------------------------------


def character_tokenizer(merges: list[tuple[str, str]] = (), **special) -> PreTrainedTokenizerFast:
    """Characters, plus the merges given: small enough to know every id by hand."""
    alphabet = sorted({chr(i) for i in range(32, 127)} | {"\n"})
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    inner = Tokenizer(BPE(vocab=vocab, merges=list(merges)))
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in [*SPECIAL, "</s>", "<s>"]])
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def labelled(batch, row: int, tokenizer) -> str:
    return tokenizer.decode(batch.labels[row][batch.labels[row] != -100])


def shown(batch, row: int, tokenizer) -> str:
    return tokenizer.decode(batch.input_ids[row][batch.attention_mask[row] == 1])


def test_plain_text_labels_answer_and_end_only():
    tokenizer = character_tokenizer(eos_token="</s>")
    rows = [Row("ab", "cd"), Row("a", "b"), Row("abcd", "efghij")]
    (batch,) = encode_rows(rows, tokenizer, batch_size=4)
    lengths = [len("a\nb") + 1, len("ab\ncd") + 1, len("abcd\nefghij") + 1]
    assert batch.attention_mask.sum(1).tolist() == lengths
    assert batch.input_ids.shape == (3, lengths[-1])
    assert [shown(batch, i, tokenizer) for i in range(3)] == ["a\nb</s>", "ab\ncd</s>", "abcd\nefghij</s>"]
    assert [labelled(batch, i, tokenizer) for i in range(3)] == ["b</s>", "cd</s>", "efghij</s>"]
    padding = batch.attention_mask == 0
    assert (batch.input_ids[padding] == tokenizer.eos_token_id).all()
    assert (batch.labels[padding] == -100).all()
    kept = batch.labels != -100
    assert (batch.labels[kept] == batch.input_ids[kept]).all()


def test_batches_by_tokens_hold_the_same_rows_and_no_more_tokens():
    tokenizer = character_tokenizer(eos_token="</s>")
    rows = [Row("p" * length, "r") for length in (30, 1, 2, 9, 1, 3, 30, 2)]
    whole = [row for batch in encode_rows(rows, tokenizer, batch_size=3) for row in real_rows(batch)]
    batches = encode_rows(rows, tokenizer, batch_tokens=24)
    assert [row for batch in batches for row in real_rows(batch)] == whole
    # Rows of 4, 4, 5, 5, 6, 12, 33 and 33 tokens; the last two are too long for any batch.
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(4, 5), (2, 12), (1, 33), (1, 33)]
    with pytest.raises(DataError, match="batch_tokens = 0; expected at least 1"):
        encode_rows(rows, tokenizer, batch_tokens=0)


def real_rows(batch):
    return [
        (ids[mask == 1].tolist(), labels[mask == 1].tolist())
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True)
    ]


def test_padding_uses_the_pad_token_and_batches_have_the_size_asked_for():
    tokenizer = character_tokenizer(eos_token="</s>", pad_token="!")
    rows = [Row("p" * (i % 7 + 1), "r") for i in range(10)]
    batches = encode_rows(rows, tokenizer, batch_size=4)
    assert [len(batch.input_ids) for batch in batches] == [4, 4, 2]
    for batch in batches:
        assert (batch.input_ids[batch.attention_mask == 0] == tokenizer.pad_token_id).all()
    lengths = [int(n) for batch in batches for n in batch.attention_mask.sum(1)]
    assert lengths == sorted(lengths)


def test_chat_template_is_what_generation_sees():
    tokenizer = character_tokenizer(eos_token="</s>")
    tokenizer.chat_template = CHAT
    (batch,) = encode_rows([Row("hi", "hello")], tokenizer)
    generation = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    asked = int((batch.labels[0] == -100).sum())
    assert batch.input_ids[0, :asked].tolist() == list(generation["input_ids"])
    # The template ends the turn itself; the line break after it is nobody's answer.
    assert labelled(batch, 0, tokenizer) == "hello<|end|>"
    (plain,) = encode_rows([Row("hi", "hello")], tokenizer, template="plain")
    assert shown(plain, 0, tokenizer) == "hi\nhello</s>"


@pytest.mark.parametrize(
    ("template", "context", "answer"),
    [
        # Llama-2 puts a space before the answer: the model writes it.
        (
            "{% for m in messages %}{{ m.content if m.role == 'user' else ' ' + m.content + ' </s>' }}{% endfor %}",
            "hi",
            " hello</s>",
        ),
        # An empty think block is context, not answer.
        (
            "{% for m in messages %}{{ m.content + '\n' if m.role == 'user' else '<think></think>' + m.content + "
            "'</s>' }}{% endfor %}",
            "hi\n<think></think>",
            "hello</s>",
        ),
        # History shown otherwise than generation: the generation prompt counts, the end token is added.
        (
            "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}go:{% endif %}",
            "hi;go:",
            "hello</s>",
        ),
    ],
)
def test_awkward_templates(template, context, answer):
    tokenizer = character_tokenizer(eos_token="</s>")
    tokenizer.chat_template = template
    (batch,) = encode_rows([Row("hi", "hello")], tokenizer)
    assert shown(batch, 0, tokenizer) == context + answer
    assert labelled(batch, 0, tokenizer) == answer


def test_a_token_across_the_border_is_split_as_in_generation():
    tokenizer = character_tokenizer([("\n", "x")], eos_token="</s>")
    assert len(tokenizer("a\nx")["input_ids"]) == 2  # together they would be one token
    (batch,) = encode_rows([Row("a", "xy")], tokenizer)
    prompt = tokenizer("a\n")["input_ids"]
    assert batch.input_ids[0].tolist() == [*prompt, *tokenizer("xy")["input_ids"], tokenizer.eos_token_id]
    assert labelled(batch, 0, tokenizer) == "xy</s>"


def test_merges_inside_the_answer_are_kept():
    tokenizer = character_tokenizer([("x", "y")], eos_token="</s>")
    (batch,) = encode_rows([Row("a", "xy")], tokenizer)
    assert batch.input_ids.shape == (1, 4)


def test_beginning_token_and_no_end_token():
    from tokenizers.processors import TemplateProcessing

    tokenizer = character_tokenizer(bos_token="<s>", eos_token="</s>")
    ids = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    (batch,) = encode_rows([Row("hi", "hello")], tokenizer)
    assert shown(batch, 0, tokenizer) == "<s>hi\nhello</s>"
    (bare,) = encode_rows([Row("hi", "hello"), Row("h", "o")], character_tokenizer())
    assert (bare.attention_mask.sum(1) == bare.attention_mask.new_tensor([3, 8])).all()


def test_long_rows_lose_the_end_of_the_answer_or_the_beginning_of_the_prompt():
    tokenizer = character_tokenizer(eos_token="</s>")
    (batch,) = encode_rows([Row("abc", "defgh")], tokenizer, max_length=6)
    assert (shown(batch, 0, tokenizer), labelled(batch, 0, tokenizer)) == ("abc\nde", "de")
    (batch,) = encode_rows([Row("abcdefghij", "xy")], tokenizer, max_length=8)
    assert (shown(batch, 0, tokenizer), labelled(batch, 0, tokenizer)) == ("ghij\nxy</s>", "xy</s>")
    (batch,) = encode_rows([Row("abcdefghij", "klmnopqrst")], tokenizer, max_length=8)
    assert (shown(batch, 0, tokenizer), labelled(batch, 0, tokenizer)) == ("hij\nklmn", "klmn")
    (batch,) = encode_rows([Row("abcdefghij", "k")], tokenizer, max_length=2)
    assert (shown(batch, 0, tokenizer), labelled(batch, 0, tokenizer)) == ("\nk", "k")


def test_truncated_prompts_keep_their_beginning_token():
    tokenizer = character_tokenizer(bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (batch,) = encode_rows([Row("abcdefghij", "xy")], tokenizer, max_length=8)
    assert shown(batch, 0, tokenizer) == "<s>hij\nxy</s>"


@settings(max_examples=100)
@given(
    rows=st.lists(
        st.builds(Row, *[st.text(st.characters(codec="ascii", categories=["L", "P"]), min_size=1)] * 2),
        min_size=1,
        max_size=6,
    ),
    max_length=st.integers(2, 40),
)
def test_every_row_has_labels_and_fits(rows, max_length):
    tokenizer = character_tokenizer([("a", "b")], eos_token="</s>")
    for batch in encode_rows(rows, tokenizer, max_length=max_length, batch_size=3):
        assert batch.input_ids.shape[1] <= max_length
        assert ((batch.labels != -100).sum(1) > 0).all()
        assert ((batch.labels == -100).sum(1) > 0).all()


def test_wrong_encodings():
    tokenizer = character_tokenizer(eos_token="</s>")
    with pytest.raises(DataError, match="no rows to encode"):
        encode_rows([], tokenizer)
    with pytest.raises(DataError, match="has no chat template"):
        encode_rows([Row("p", "r")], tokenizer, template="chat")
    with pytest.raises(DataError, match="batch_size = 0"):
        encode_rows([Row("p", "r")], tokenizer, batch_size=0)
    words = Tokenizer(WordLevel({"p": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    with pytest.raises(DataError, match="the answer '  ' to 'p' has no tokens"):
        encode_rows([Row("p", "  ")], PreTrainedTokenizerFast(tokenizer_object=words))


# --- the real sets -----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beavertails/unsafe_14_categories.jsonl", {"response": "I can't help with that."}),
        ("pku_saferlhf/qa.jsonl", {"where": {"is_safe": True}}),
        ("safety_sft/safe_responses_2483.json", {}),
        ("harmful_prompts/advbench.csv", {"response": "No."}),
        ("harmful_prompts/jailbreakbench.csv", {"response": "No."}),
        ("harmful_prompts/harmbench_val.csv", {"response": "No."}),
        ("xstest/xstest_prompts.csv", {"response": "Sure.", "where": {"label": "safe"}}),
        ("do_not_answer/malicious_uses.jsonl", {"response": "No."}),
        ("gsm8k/test.jsonl", {}),
        ("instructions/alpaca_1000.json", {}),
        ("instructions/lima_1029.json", {}),
        ("instructions/codealpaca_4535.json", {}),
        ("instructions/t0_50k.jsonl.xz", {}),
    ],
)
def test_real_files_load(real_data, name, options):
    rows = load_rows(source(real_data / name, samples=50, **options), seed=0)
    assert len({normalise_prompt(row.prompt) for row in rows}) == 50
    assert all(row.response.strip() for row in rows)


@pytest.mark.data
def test_real_harmful_answers_are_refused(real_data):
    with pytest.raises(DataError, match="3973 of 3973 answers are marked is_safe = false"):
        load_rows(source(real_data / "beavertails/unsafe_14_categories.jsonl"))


@pytest.mark.data
@pytest.mark.parametrize("name", ["tokenizers/smollm2_135m_instruct", "models/stories260K"])
def test_real_tokenizers(real_data, name):
    tokenizer = AutoTokenizer.from_pretrained(real_data / name)
    rows = load_rows(source(real_data / "instructions/alpaca_1000.json", samples=24), seed=0)
    expected = {}
    for row in rows:
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.response}]
        if tokenizer.chat_template:
            asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)["input_ids"]
            full = tokenizer.apply_chat_template(turns)["input_ids"][:-1]  # without the line break after the turn
        else:
            asked = tokenizer(f"{row.prompt}\n")["input_ids"]
            full = [*tokenizer(f"{row.prompt}\n{row.response}")["input_ids"], tokenizer.eos_token_id]
        expected[tuple(full)] = len(asked)
    found = {}
    for batch in encode_rows(rows, tokenizer, max_length=4096):
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            found[tuple(ids[mask == 1].tolist())] = int((labels[mask == 1] == -100).sum())
    assert found == expected
