"""``sst-merge data show``: every form in which people keep data is named, counted and shown as it is read."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["data", "show", *map(str, arguments)])


def chat(speaker: str, words: str, users: str, bot: str) -> list[dict[str, str]]:
    said = (("system", "s"), (users, "q"), (bot, "a"), (users, "q2"), (bot, "a2"))
    return [{speaker: who, words: what} for who, what in said]


@pytest.mark.parametrize(
    ("record", "form", "prompt", "fields"),
    [
        ({"messages": chat("role", "content", "user", "assistant")}, "OpenAI", "s\n\nq", ["messages"]),
        ({"conversations": chat("from", "value", "human", "gpt")}, "ShareGPT", "s\n\nq", ["conversations"]),
        ({"instruction": "q", "input": "i", "output": "a"}, "Alpaca", "q\n\ni", ["instruction", "input"]),
        ({"prompt": "q", "completion": "a", "system": "s"}, "completions", "s\n\nq", ["system", "prompt"]),
        ({"Question": "q", "Answer": "a", "context": "c"}, "answers", "q\n\nc", ["Question", "context"]),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_forms(record: dict[str, Any], form: str, prompt: str, fields: list[str], ending: str, tmp_path: Path) -> None:
    records = [record, record, dict.fromkeys(record)]
    file = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(records), file)
    else:
        file.write_text("\n".join(map(json.dumps, records)))
    shown = json.loads(call(file, "--json").stdout)
    assert form in shown["form"]["kind"]
    assert [*shown["form"]["before"], shown["form"]["prompt"], *shown["form"]["after"]] == fields
    assert shown["counts"] == {"records": 3, "kept": 3, "usable": 2, "distinct": 1, "rows": 1}
    assert shown["rows"] == [{"prompt": prompt, "answer": "a"}]
    assert any("1 of 3 records are skipped: record 3" in note for note in shown["notes"])
    assert ("later turns" in str(shown["notes"])) == shown["form"]["chat"]


def test_the_answers_tokens_are_marked(base: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file = tmp_path / "rows.jsonl"
    words = AutoTokenizer.from_pretrained(base)
    file.write_text("\n".join(json.dumps({"prompt": f"who {i}", "answer": "no ."}) for i in range(5)))
    shown = json.loads(call(file, "--tokenizer", base, "--template", "plain", "--json").stdout)
    assert len(shown["rows"]) == 3
    row = shown["rows"][0]
    expected = words("no .", add_special_tokens=False)["input_ids"] + [words.eos_token_id]
    assert row["tokens"] == [words.decode([token]) for token in expected] and row["answer_tokens"] == len(expected)
    told = call(file, "--tokenizer", base, "--template", "plain", "--rows", 1)
    marked = "".join(f"[{token}]" for token in row["tokens"])
    assert told.exit_code == 0 and f"  answer  {marked}\n" in told.stdout and "row 2" not in told.stdout
    assert "Next: sst-merge merge --dry-run, with this as data.harm.path" in told.stderr


def test_fields_and_faults(hub: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"goal": "q", "target": "Sure", "safe": "no"}))
    told = call(file, "--response", "I cannot.")
    assert told.exit_code == 0 and "the fixed answer" in told.stdout and "  answer  I cannot." in told.stdout
    for arguments, said in (
        ((file,), "holds what an attacker wants to read"),
        ((file, "--response-field", "none"), "no field 'none' (response_field)"),
        ((tmp_path / "gone.jsonl",), "gone.jsonl does not exist"),
        (("user/none",), "data set user/none: no such folder here, and on the hub: there is no dataset repository"),
        ((file, "--split", "test"), "`split`, `subset` and `revision` belong to `dataset`"),
        ((file, "--max-length", "1"), "--max-length (max_length): Input should be greater than or equal to 2"),
    ):
        refused = call(*arguments)
        assert refused.exit_code == 2 and said in refused.output, refused.output


def test_damaged_parquet_and_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 no")
    assert f"{file}: not a Parquet file" in call(file).output
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "run: pip install pyarrow" in call(file).output
