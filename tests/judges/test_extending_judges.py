"""Judges of other packages: the page's example, installed as the page says, and used like any other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_package import blocks, install

from sst_merge.errors import ConfigError, DataError
from sst_merge.judges import available_judges, make_judges, run_judge_check

PAGE = "extending/judge.md"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what is installed there is looked for again."""
    monkeypatch.syspath_prepend(tmp_path)
    available_judges.cache_clear()
    yield tmp_path
    available_judges.cache_clear()


def test_the_pages_example_is_a_judge_like_any_other(path: Path) -> None:
    ((source,), (entry_points,)) = blocks(PAGE, "python"), blocks(PAGE, "toml")
    with pytest.raises(DataError, match="unknown judge 'shouting'; available: beaver-dam"):
        make_judges(["shouting"])
    available_judges.cache_clear()
    install(path, entry_points, {"shouting": source})
    rules, shouting = make_judges(["rules", "shouting"])
    assert (rules.column, shouting.column, shouting.name) == ("refusal", "harm", "shouting/1")
    assert shouting(["a"] * 3, ["LOUD!", "quiet", "HaLf"]) == [1.0, 0.0, 0.5]
    labels = path / "labels.jsonl"
    labels.write_text('{"prompt": "a", "response": "YES", "harm": 1}\n{"prompt": "b", "response": "no", "harm": 0}\n')
    assert run_judge_check("shouting", labels).accuracy.value == 1.0


def test_a_judge_of_a_name_that_is_taken_is_refused(path: Path) -> None:
    source = blocks(PAGE, "python")[0].replace('name="shouting"', 'name="rules"')
    install(path, '[project.entry-points."sst_merge.judges"]\nmine = "loud_rules:shouting"\n', {"loud_rules": source})
    with pytest.raises(
        ConfigError, match=r"'rules' is declared twice, by sst_merge\.judges\.refusal_rules and by entry"
    ):
        available_judges()
