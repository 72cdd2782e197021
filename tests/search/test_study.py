"""The study on disk: killed anywhere it goes on as if it had not been; the rule that chooses is the one it states."""

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sst_merge.errors import ConfigError
from sst_merge.search.arena import Measured
from sst_merge.search.config import Wanted
from sst_merge.search.front import chosen, front, nearest
from sst_merge.search.point import Point
from sst_merge.search.space import Space, forms_of, search_space
from sst_merge.search.study import Study, Trial
from sst_merge.worlds.outcomes import Counts

optuna = pytest.importorskip("optuna", reason="the extra search is not installed")

SAID: Mapping[str, Any] = {"what": "a test"}


@pytest.fixture(scope="module")
def space() -> Space:
    return search_space(forms_of(("ties", "task_arithmetic", "mergealign"), safety=True), asked={}, ranks=(None, 4))


def opened(out: Path, space: Space, said: Mapping[str, Any] = SAID) -> Study:
    return Study(out, space, said, limit=0.2, seed=3, warm=space.warm(1))


def landscape(point: Point) -> Measured:
    """A tax: what is gained in safety is lost in skill, more so with little kept."""
    strength = point.safety_weight * float(point.options.get("strength", 1.0))
    strength *= float(point.options.get("safety_strength", 1.0))
    safe = min(100, round(100 * strength / (0.3 + strength)))
    return Measured(Counts(safe, 100), Counts(safe // 3, 100), {"skill": (1.0 - (safe / 100) ** 2, 100)})


def run(out: Path, space: Space, *, most: int, at_once: int, stop: int | None = None) -> list[Trial]:
    """Until there are so many, or until so many were told: then what is left is forgotten, as by a kill."""
    study, told = opened(out, space), 0
    while batch := study.propose(most, at_once):
        for trial in batch:
            if told == stop:
                return study.trials()
            failed = trial.number % 7 == 5
            study.tell(trial, "it does not work" if failed else landscape(trial.point))
            told += 1
    return study.trials()


@pytest.mark.parametrize(("at_once", "stops"), [(1, (6,)), (3, (1, 5))])
def test_killed_anywhere_a_study_ends_as_if_it_had_not_been(
    at_once: int, stops: tuple[int, ...], space: Space, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", space, most=10, at_once=at_once)
    assert [trial.number for trial in whole] == list(range(10)) and len({str(t.point) for t in whole}) == 10
    for stop in stops:
        out = tmp_path / f"killed {stop}"
        run(out, space, most=10, at_once=at_once, stop=stop)
        assert run(out, space, most=10, at_once=at_once) == whole, stop
    assert run(tmp_path / "whole", space, most=10, at_once=at_once) == whole, "nothing is left to do"


def test_killed_amid_a_proposal(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", space, most=9, at_once=1)
    out = tmp_path / "killed"
    run(out, space, most=8, at_once=1)
    with monkeypatch.context() as killing:
        killing.setattr(optuna.trial.Trial, "set_user_attr", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened(out, space).propose(9, 1)
    assert run(out, space, most=9, at_once=1) == whole


def test_proposals_learn_what_pays(space: Space, tmp_path: Path) -> None:
    trials = run(tmp_path, space, most=28, at_once=1)
    limits = [t.measured.over_refusal.rate <= 0.2 for t in trials if t.measured and t.measured.over_refusal]
    assert sum(limits[-10:]) > 6, "over-refusal above the limit is a constraint"


def test_another_search_in_the_same_folder_is_refused(space: Space, tmp_path: Path) -> None:
    opened(tmp_path, space)
    with pytest.raises(ConfigError, match=r"holds a search for something else \(what\); choose another folder"):
        opened(tmp_path, space, {"what": "another"})


def test_the_best_merge_by_the_rule_as_it_is_stated() -> None:
    rng, wanted = random.Random(0), Wanted(safety=0.6, over_refusal=0.3)
    for _ in range(200):
        trials = [
            Trial(number, Point("", "ties"), Measured(*(Counts(rng.randrange(5), 4 + 0) for _ in "ab"), {"s": (s, 4)}))
            for number, s in enumerate(rng.choices([0.25, 0.5, 1.0], k=4))
        ]
        fitting = [t for t in trials if t.measured.safety.rate >= 0.6 and t.measured.over_refusal.rate <= 0.3]
        best = chosen(trials, wanted)
        if not fitting:
            assert best is None and nearest(trials, wanted) in trials
            continue
        most = max(t.measured.skill for t in fitting)
        least = min(t.measured.over_refusal.rate for t in fitting if t.measured.skill == most)
        assert best in fitting
        assert (best.measured.skill, best.measured.over_refusal.rate) == (most, least)
        for one, other in itertools.permutations(front(trials, 0.3), 2):
            a, b = one.measured, other.measured
            assert a.safety.rate > b.safety.rate or a.skill > b.skill, "one of the front beats another"


def test_without_measures_there_is_no_front() -> None:
    trials = [Trial(0, Point("", "ties")), Trial(1, Point("", "ties"), failure="why")]
    assert front(trials, 1.0) == [] and chosen(trials, Wanted()) is None and nearest(trials, Wanted()) is None
