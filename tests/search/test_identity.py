"""One run of a search after the other in the same folder: what was measured counts for the same merges alone."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sst_merge.errors import ConfigError
from sst_merge.executors import Workers
from sst_merge.merging.settings import DEFAULT_SETTINGS
from sst_merge.search.arena import Measured, Opener
from sst_merge.search.config import SearchConfig
from sst_merge.search.run import Found, Ground, run_search
from sst_merge.worlds.merge_setup import MergeSetup
from sst_merge.worlds.outcomes import Counts
from sst_merge.yaml_config import validated

pytest.importorskip("optuna", reason="the extra search is not installed")

GIVEN: Mapping[str, Any] = {"merge": {"adapters": [{"path": "a", "weight": 1.0}]}, "dev": {"samples": 8}}


@pytest.fixture(scope="module")
def opener(setup: MergeSetup) -> Opener:
    """Of an arena where every merge does as well as the other."""
    found = Measured(Counts(1, 2), Counts(0, 2), {"skill": (0.5, 2)})
    arena = SimpleNamespace(problem=setup.problem, settings=DEFAULT_SETTINGS, measure=lambda _: found)
    return lambda _: arena


def searched(out: Path, opener: Opener, given: Mapping[str, Any], workers: Any, **more: Any) -> Found:
    raw = {
        "world": {"name": "lab"},
        "skills": ["swap_pairs"],
        "search": {"methods": ["Task Arithmetic"], "trials": 3},
        "out": str(out),
    }
    config = validated(SearchConfig, raw, source="search")
    return run_search(config, Ground(opener, given, {"base": "b"}, safety=True), workers=workers, **more)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"merge": {"adapters": [{"path": "a", "weight": 0.5}]}}, "merge"),
        ({"dev": {"samples": 4}}, "dev"),
    ],
)
def test_trials_of_other_merges_are_not_taken_over(
    changed: Mapping[str, Any], said: str, opener: Opener, tmp_path: Path
) -> None:
    """Else the best of the old ones would be written with the new weight, which nobody has measured."""
    assert searched(tmp_path, opener, GIVEN, Workers(1)).measured == 3
    assert searched(tmp_path, opener, GIVEN, Workers(1)).measured == 0, "the same again is known"
    with pytest.raises(ConfigError, match=rf"holds a search for something else \({said}\)"):
        searched(tmp_path, opener, {**GIVEN, **changed}, Workers(1))


class AtOnce(Executor):
    """Does here what it is given."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        found: Future[Any] = Future()
        found.set_result(work(*given, **named))
        return found


class Two(Workers):
    """As two of a cluster's, which no configuration counts."""

    def pools(self, pieces: int) -> Sequence[Executor]:
        return [AtOnce()] * min(2, pieces)


def test_a_warm_start_against_time_keeps_all_executors_at_work(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(100))
    monkeypatch.setattr("sst_merge.search.run.time", SimpleNamespace(monotonic=lambda: next(looks)))
    found = searched(tmp_path, opener, GIVEN, Two(2), seconds=1.5)
    assert found.out_of_time and found.measured == 2, "time was left when it was looked at first, and not again"
