"""What cells save time with: a merge that is made once serves many strengths only where it may."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sst_merge.baselines import fisher_merging, regmean
from sst_merge.experiments.interference_work import _skills_path
from sst_merge.experiments.method_sweeps import DRIFT_SWEEPS, TWO_STAGE_SWEEPS, AnySweep
from sst_merge.experiments.updates_by_knob import SkillsThenSafety, swept_updates, updates_by_knob
from sst_merge.methods import SAFETY_WEIGHT, MergeProblem
from sst_merge.sst import SSTMerge
from sst_merge.worlds.merge_setup import MergeSetup, merge_setup
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.updates import Update

ONCE = [label for label, swept in DRIFT_SWEEPS.items() if swept.prepare_once]
BASELINES = [label for label, staged in TWO_STAGE_SWEEPS.items() if staged.method != "sst"]


@pytest.fixture(scope="module")
def drift() -> MergeSetup:
    return merge_setup(open_world("lab"), ["swap_pairs", "add"], base="aligned", harm_samples=8, benign_samples=8)


@pytest.fixture(scope="module")
def experts() -> MergeSetup:
    return merge_setup(open_world("lab"), ["swap_pairs", "add"], harm_samples=8, benign_samples=8)


def _short(swept: AnySweep) -> AnySweep:
    """With two steps of training, on whose number nothing here depends."""
    trained = swept.method in {"calibration_only", "lora_soups", "prodistill"}
    return replace(swept, options={"steps": 2}) if trained else swept


def _dense(update: Update) -> dict[str, torch.Tensor]:
    return {m: f.delta(torch.float64) for m, f in update.items()}


def _skills(problem: MergeProblem) -> MergeProblem:
    return replace(problem, adapters=[a for a in problem.adapters if a.role == "utility"])


def _assert_same(found: Update, expected: Update) -> None:
    given = _dense(expected)
    assert found.keys() == given.keys()
    for module, delta in _dense(found).items():
        torch.testing.assert_close(delta, given[module], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", ONCE)
def test_drift_prepares_once_only_what_does_not_read_the_strength(label: str, drift: MergeSetup) -> None:
    swept = _short(DRIFT_SWEEPS[label])
    first, other = swept.values[2], swept.values[7]
    path = swept_updates(drift.problem, swept)
    path(first)
    _assert_same(path(other), swept_updates(drift.problem, replace(swept, prepare_once=False))(other))


@pytest.mark.parametrize("label", BASELINES)
def test_one_merge_of_the_skills_serves_every_strength(label: str, experts: MergeSetup) -> None:
    staged, skills = _short(TWO_STAGE_SWEEPS[label]), _skills(experts.problem)
    path = _skills_path(experts.problem, staged)
    for strength in staged.strengths[::4]:
        own = updates_by_knob(skills, staged.method, staged.options, "strength", prepare_once=False)(strength)
        _assert_same(path(strength), own)


def test_the_skills_of_sst_merge_are_the_same_with_a_safety_adapter(experts: MergeSetup) -> None:
    options = TWO_STAGE_SWEEPS["SST-Merge, core inputs"].options
    with_safety, alone = (SkillsThenSafety(p, options) for p in (experts.problem, _skills(experts.problem)))
    _assert_same(with_safety.skills(1.2), alone.skills(1.2))


def test_skills_alone_need_no_fishers_of_the_merge_with_safety(
    experts: MergeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(SSTMerge):
        def __init__(self, problem: MergeProblem, *given: Any, **named: Any) -> None:
            made.append(len(problem.adapters))
            super().__init__(problem, *given, **named)

    monkeypatch.setattr("sst_merge.experiments.updates_by_knob.SSTMerge", Counted)
    path = SkillsThenSafety(experts.problem, TWO_STAGE_SWEEPS["SST-Merge, closed form"].options)
    path.skills(1.0)
    assert made == [len(_skills(experts.problem).adapters)]
    path.safe(1.0, 1.0)
    assert made == [len(_skills(experts.problem).adapters), len(experts.problem.adapters)]


@pytest.mark.parametrize("method", ["regmean", "fisher_merging"])
def test_what_weights_do_not_change_is_collected_once(
    method: str, experts: MergeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []

    def counting(problem: MergeProblem, stage: str, batches: object) -> None:
        passes.append(stage)

    for room in (regmean, fisher_merging):
        monkeypatch.setattr(room, "ticker", counting)
    path = updates_by_knob(experts.problem, method, {}, SAFETY_WEIGHT, prepare_once=False)
    updates = [path(weight) for weight in (0.5, 2.0, -2.0)]
    assert len(passes) == len(experts.problem.adapters) + 1, "the reverse of an adapter has other activations"
    assert any((_dense(updates[0])[m] - d).abs().max() > 1e-4 for m, d in _dense(updates[1]).items())
    for weight, update in zip((0.5, 2.0, -2.0), updates, strict=True):
        _assert_same(update, updates_by_knob(experts.problem, method, {}, SAFETY_WEIGHT, prepare_once=False)(weight))
