"""Suites of other packages: the page's examples, installed as the page says, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installed_package import blocks, install

from sst_merge.errors import ConfigError, DataError
from sst_merge.suites import available_sets, available_suites, expand_suites, get_suites

PAGE = "extending/suite.md"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what is installed there is looked for again."""
    monkeypatch.syspath_prepend(tmp_path)
    available_suites.cache_clear()
    yield tmp_path
    available_suites.cache_clear()


def load(name: str, **metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    (suite,) = get_suites([name])
    return TaskManager(include_defaults=False, metadata=metadata).load([suite.config])["tasks"][suite.task]


def test_the_pages_examples_are_suites_like_any_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (house_rules, sums), (entry_points,) = blocks(PAGE, "python"), blocks(PAGE, "toml")
    install(path, f"{entry_points}sums = sums\n", {"house_rules": house_rules, "sums": sums})
    (rows,) = blocks(PAGE, "json")
    (path / "house_rules").mkdir()
    (path / "house_rules/requests.jsonl").write_text(rows)
    monkeypatch.setenv("SST_MERGE_DATA", str(path))

    names = list(available_suites())
    assert names.index("harmbench") < names.index("house_rules") < names.index("jailbreak"), "in its place"
    assert "house_rules" in available_sets()
    assert "house_rules" in [suite.name for suite in expand_suites(["safety"])[0]]
    task = load("house_rules")
    asked = [json.loads(line) for line in rows.splitlines()]
    assert [doc["prompt"] for doc in task.eval_docs] == [row["prompt"] for row in asked]
    assert [json.loads(doc["tags"]) for doc in task.eval_docs] == [{"topic": row["topic"]} for row in asked]
    assert task.process_results(task.eval_docs[0], ["No."]) == {"empty": 0.0}
    assert len(load("house_rules", exclude=[asked[0]["prompt"].upper()]).eval_docs) == len(asked) - 1

    task = load("sums", samples=30, seed=1)
    assert len(task.eval_docs) == 30
    task.build_all_requests(rank=0, world_size=1)
    for instance in task.instances:
        a, b = map(int, instance.doc["prompt"].split(" + "))
        assert instance.args[0] == f"{a} + {b} ="
        assert task.process_results(instance.doc, [f" {a + b}"]) == {"correct": 1.0}
        assert task.process_results(instance.doc, [f" {a + b + 1}"]) == {"correct": 0.0}


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("x = 1", "bad", r"entry point 'one' = 'bad' \(group sst_merge\.suites\) is a module without any Suite"),
        ("x = 1", "bad:x", r"is a int without any Suite; expected a module with declarations, or one Suite"),
        ("x = 1", "bad:y", r"'bad:y' .* cannot be loaded: .*'y'; mend or uninstall that package"),
        ("import nothing_of_that_name", "bad", r"cannot be loaded: No module named 'nothing_of_that_name'"),
        (
            "from sst_merge.suites import Suite\nmine = Suite(name='mmlu', measure='utility', summary='')",
            "bad",
            r"'mmlu' is declared twice, by sst_merge\.suites\.builtin\.mmlu and by entry point 'one'",
        ),
    ],
)
def test_what_an_entry_point_must_not_be(
    source: str, value: str, message: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "bad", raising=False)
    install(path, f'[project.entry-points."sst_merge.suites"]\none = "{value}"\n', {"bad": source})
    with pytest.raises(ConfigError, match=message):
        available_suites()


def test_two_sets_of_one_name_are_refused(path: Path) -> None:
    source = blocks(PAGE, "python")[0].replace('SetSpec(\n    name="house_rules"', 'SetSpec(\n    name="mmlu"')
    install(path, blocks(PAGE, "toml")[0].replace('"house_rules"', '"other_rules"'), {"other_rules": source})
    with pytest.raises(DataError, match=r"suite '\w+' reads another data set 'mmlu' than other suites; rename it"):
        available_sets()
