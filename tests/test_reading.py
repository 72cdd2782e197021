"""What parsers stumble over is the documented error, bounded and at once."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from sst_merge.data_loader import DataSource, load_rows
from sst_merge.errors import AdapterError, BaseModelError, ConfigError, DataError, SSTMergeError
from sst_merge.lora_utils import Adapter, BaseModelIndex
from sst_merge.reading import cause, parse_json, reading, reads
from sst_merge.yaml_config import parse_yaml, read_yaml


@pytest.mark.parametrize(
    "error",
    [RecursionError(), KeyError("x"), OverflowError("y"), MemoryError(), ValueError("x" * 10**6), AttributeError("z")],
)
def test_every_failure_is_the_documented_error(error: Exception) -> None:
    with pytest.raises(DataError) as caught, reading("place", DataError, "rows", "do this"):
        raise error
    assert re.fullmatch(r"place: cannot be read as rows \(.+\); do this", str(caught.value))
    assert caught.value.__cause__ is error and len(str(caught.value)) < 500


def test_own_errors_and_interrupts_pass() -> None:
    for error in (AdapterError("mine"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)) as caught, reading("place", DataError, "rows", "do this"):
            raise error
        assert caught.value is error


def test_a_function_inside_names_its_place() -> None:
    @reads(ConfigError, "numbers", "write one", at=1)
    def number(_: None, text: str) -> int:
        return int(text)

    assert number(None, "3") == 3 and number.__name__ == "number"
    with pytest.raises(ConfigError, match=r"^x: cannot be read as numbers \(invalid literal"):
        number(None, "x")


def test_json_is_text_that_can_be_written_again() -> None:
    assert parse_json('["\\ud83d\\ude00", 1e999]') == ["😀", float("inf")]
    for text in ('["\\ud800"]', '{"\\uDC00": 1}', "9" * 5000, "[" * 10**5):
        with pytest.raises((ValueError, RecursionError)):
            parse_json(text)
    assert cause(RecursionError("x")) == "nested too deeply"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 2024-13-45", "month must be in"),
        ("a: " + "[" * 300 + "]" * 300, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "9" * 5000, "digits"),
        ("a: &x [*x]", "endlessly many values"),
        ("a0: &a0 [1,1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 60)), "too many values"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_none(text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, source="c.yaml")
    assert str(caught.value).startswith("c.yaml: ") and time.process_time() - started < 5
    assert parse_yaml("a: &x [1]\nb: *x", source="c.yaml") == {"a": [1], "b": [1]}


def test_an_endless_file_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="more than 64 KiB"):
        read_yaml(Path("/dev/zero"))


def test_rows_without_the_field_of_where_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d", "safe": True}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [row.prompt for row in load_rows(DataSource(path=file, where={"safe": True}))] == ["c"]
    with pytest.raises(DataError, match="no field 'kind'"):
        load_rows(DataSource(path=file, where={"kind": 1}))


def test_a_field_of_many_megabytes_is_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"prompt": "a", "response": ["x" * 10**7]}))
    with pytest.raises(DataError) as caught:
        load_rows(DataSource(path=file))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"model_type": ["llama"]}', '{"model_type": "llama", "hidden_size": "x"}']
)
def test_a_base_whose_configuration_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseModelError):
        BaseModelIndex.load(tmp_path)


def test_paths_that_no_system_call_takes() -> None:
    for name in ("x" * 5000, "a\0b", os.fsdecode(b"\xff")):
        for read in (Adapter.load, BaseModelIndex.load, lambda path: load_rows(DataSource(path=path))):
            with pytest.raises(SSTMergeError):
                read(name)
