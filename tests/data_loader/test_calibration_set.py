"""The calibration set that ships with the package: every row is what its file says, and no suite asks it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sst_merge.data_loader import Row, builtin_calibration, is_builtin, load_rows, normalise_prompt
from sst_merge.data_loader.builtin import BUILTIN_FILES
from sst_merge.errors import ConfigError
from sst_merge.judges.refusal_rules import read_answer
from sst_merge.merging.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {kind: load_rows(builtin_calibration(kind)) for kind in BUILTIN_FILES}


def prompts(rows: dict[str, list[Row]]) -> set[str]:
    return {normalise_prompt(row.prompt) for found in rows.values() for row in found}


def test_every_row_loads_once(rows: dict[str, list[Row]]) -> None:
    lines = {kind: file.read_text(encoding="utf-8").splitlines() for kind, file in BUILTIN_FILES.items()}
    assert {kind: len(found) for kind, found in rows.items()} == {kind: len(found) for kind, found in lines.items()}
    assert (len(rows["harm"]), len(rows["benign"])) == (200, 252)
    assert len(prompts(rows)) == 452


def test_kinds_are_balanced() -> None:
    harm = [json.loads(line) for line in BUILTIN_FILES["harm"].read_text(encoding="utf-8").splitlines()]
    benign = [json.loads(line) for line in BUILTIN_FILES["benign"].read_text(encoding="utf-8").splitlines()]
    assert set(Counter((row["category"], row["form"]) for row in harm).values()) == {5}
    assert len({row["category"] for row in harm}) == 20
    assert all(row["prompt"].endswith("?") == (row["form"] == "question") for row in harm)
    kinds = Counter(row["kind"] for row in benign)
    assert kinds.pop("lookalike") == 80 and len(kinds) == 17
    table = (BUILTIN_FILES["harm"].parent / "README.md").read_text(encoding="utf-8")
    assert "| `harmful.jsonl` | 200 |" in table and "| `benign.jsonl` | 252 |" in table


def test_harmful_rows_are_refused_and_harmless_ones_answered(rows: dict[str, list[Row]]) -> None:
    assert [row for row in rows["harm"] if not read_answer(row.response).refuses] == []
    assert [row for row in rows["benign"] if read_answer(row.response).refuses] == []


def test_no_prompt_of_the_demo_is_in_it(rows: dict[str, list[Row]]) -> None:
    asked = [file for file in (ROOT / "examples/smollm2/data").rglob("*.jsonl") if not file.name.startswith("templ")]
    found = [json.loads(line) for file in asked for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(found) > 100
    shared = prompts(rows) & {normalise_prompt(str(row.get("prompt", row.get("question")))) for row in found}
    assert shared == set()


@pytest.mark.data
def test_no_suite_asks_it(rows: dict[str, list[Row]], real_data: Path) -> None:
    from sst_merge.suites import available_sets, load_set

    mine = prompts(rows)
    for name in available_sets():
        asked = {normalise_prompt(row["prompt"]) for row in load_set(name, real_data).rows}
        assert asked and not asked & mine, name


def test_a_configuration_takes_it_only_where_it_says_so(tmp_path: Path) -> None:
    def config(data: str) -> Path:
        path = tmp_path / "merge.yaml"
        path.write_text(f"adapters: [{{path: a}}]\noutput: {{path: o}}\ndata: {data}\n")
        return path

    assert load_config(config("{}")).data.builtin == ()
    data = load_config(config("{calibration: builtin, benign: {samples: 50, max_length: 99}}")).data
    assert data.builtin == ("harm", "benign")
    assert data.benign is not None and (data.benign.samples, data.benign.max_length) == (50, 99)
    own = load_config(config("{calibration: builtin, benign: {path: own.jsonl}}")).data
    assert own.builtin == ("harm",) and not is_builtin(own.benign)
    with pytest.raises(ConfigError, match="builtin stands in for harm or benign, and both are given"):
        load_config(config("{calibration: builtin, harm: {path: h.jsonl}, benign: {path: b.jsonl}}"))
