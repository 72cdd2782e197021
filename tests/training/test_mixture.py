"""Amounts of several sources, and how the command line writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sst_merge.errors import ConfigError, DataError
from sst_merge.training import read_mixture
from sst_merge.training.config import TrainConfig, TrainingSource
from sst_merge.yaml_config import load_yaml_config


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, count in (("a", 60), ("b", 40), ("c", 9)):
        lines = [json.dumps({"prompt": f"{name} {i}", "response": f"answer {i}"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def source(place: Path, name: str, **fields: Any) -> TrainingSource:
    return TrainingSource(path=place / f"{name}.jsonl", **fields)


def counts(*sources: TrainingSource, seed: int = 0) -> dict[str, int]:
    mixture = read_mixture(sources, seed=seed)
    assert len(mixture.rows) == sum(mixture.counts.values())
    return dict(mixture.counts)


def test_amounts(place: Path) -> None:
    assert counts(source(place, "a"), source(place, "b", samples=10)) == {"a.jsonl": 60, "b.jsonl": 10}
    # 60 rows are two thirds of 90.
    assert counts(source(place, "a"), source(place, "b", share=1 / 3)) == {"a.jsonl": 60, "b.jsonl": 30}
    # 20 rows are what 0.5 and 0.1 leave of 50.
    assert counts(source(place, "b", share=0.1), source(place, "a", share=0.5), source(place, "c", samples=8)) == {
        "b.jsonl": 2, "a.jsonl": 10, "c.jsonl": 8,
    }  # fmt: skip
    # Shares alone: as many rows as the scarcest source allows.
    assert counts(source(place, "a", share=0.5), source(place, "b", share=0.5)) == {"a.jsonl": 40, "b.jsonl": 40}


def test_a_share_draws_what_the_same_number_of_samples_draws(place: Path) -> None:
    shared = read_mixture([source(place, "a"), source(place, "b", share=0.25)], seed=4)
    drawn = read_mixture([source(place, "a"), source(place, "b", samples=20)], seed=4)
    assert shared.rows == drawn.rows
    assert shared.rows != read_mixture([source(place, "a"), source(place, "b", samples=20)], seed=5).rows


def test_prompts_of_two_sources_are_counted_and_files_of_one_name_told_apart(place: Path) -> None:
    (place / "other").mkdir()
    (place / "other" / "c.jsonl").write_text(
        '{"prompt": "C  3", "response": "no"}\n{"prompt": "new", "response": "yes"}\n'
    )
    mixture = read_mixture([source(place, "c"), TrainingSource(path=place / "other" / "c.jsonl")], seed=0)
    assert mixture.shared == 1
    assert list(mixture.counts) == [f"{place.name}/c.jsonl", "other/c.jsonl"]


@pytest.mark.parametrize(
    ("names", "shares", "message"),
    [
        ("ac", (None, 0.5), r"c.jsonl: 9 distinct prompts, but a share of 0.5 takes 60; lower the share"),
        ("ab", (0.5, 0.4), r"the shares add up to 0.9; expected 1"),
        ("abc", (0.5, 0.5, None), "the shares add up to 1, which leaves nothing"),
        ("aa", (None, 0.5), "a.jsonl: given twice"),
    ],
)
def test_amounts_that_cannot_be(place: Path, names: str, shares: tuple[float | None, ...], message: str) -> None:
    given = [source(place, name, **({} if s is None else {"share": s})) for name, s in zip(names, shares, strict=True)]
    with pytest.raises(DataError, match=message):
        read_mixture(given, seed=0)


def test_a_source_as_text(place: Path) -> None:
    (place / "x:5").write_text('{"prompt": "p", "response": "r"}')
    (place / "train.yaml").write_text(
        "base: org/model\noutput: out\ndata: ['a.jsonl', 'b.jsonl:0.25', 'c.jsonl:7', 'x:5']\n"
    )
    config = load_yaml_config(TrainConfig, place / "train.yaml")
    assert [(s.name, s.samples, s.share) for s in config.data] == [
        (str(place / "a.jsonl"), None, None),
        (str(place / "b.jsonl"), None, 0.25),
        (str(place / "c.jsonl"), 7, None),
        (str(place / "x:5"), None, None),
    ]
    assert config.output == place / "out"
    assert config.recipe.rank == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{path: a.jsonl, share: 0.5, samples: 3}]", "data.0: both `share` and `samples` given"),
        ("[{path: a.jsonl, max_length: 20}]", r"`max_length` is one for all rows .* set it as `recipe.max_length`"),
        ("['a.jsonl:0']", "data.0.samples: Input should be greater than or equal to 1"),
        ("['a.jsonl:1.5']", "data.0.share: Input should be less than or equal to 1"),
        ("[]", "data: Tuple should have at least 1 item"),
    ],
)
def test_faults_of_a_configuration(place: Path, text: str, message: str) -> None:
    (place / "train.yaml").write_text(f"base: org/model\noutput: out\ndata: {text}\n")
    with pytest.raises(ConfigError, match=message):
        load_yaml_config(TrainConfig, place / "train.yaml")


def test_the_output_is_not_in_the_base(place: Path) -> None:
    (place / "base").mkdir()
    (place / "train.yaml").write_text("base: base\noutput: base/adapter\ndata: [a.jsonl]\n")
    with pytest.raises(ConfigError, match="share a folder"):
        load_yaml_config(TrainConfig, place / "train.yaml")
