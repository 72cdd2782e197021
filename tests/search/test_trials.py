"""A trial is the merge that `sst-merge merge` makes of the same settings, whatever trials share with each other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge import merge
from sst_merge.search.arena import Measured, WorldArena
from sst_merge.search.point import Point
from sst_merge.search.shared import SharedMerges, refusal_of
from sst_merge.worlds.asking import measure
from sst_merge.worlds.merge_setup import MergeSetup
from sst_merge.worlds.outcomes import Counts
from sst_merge.worlds.updates import UpdatedModel

# Those of one row share what is prepared: the second must be what it would be alone.
POINTS = [
    [
        Point("", "sst", {"mu": 1.0}),
        Point("", "sst", {"mu": 0.05, "strength": 1.5}, rank=3),
        Point("", "sst", {"refine": 1, "tax_budget": 0.02}),
        Point("", "sst", {"refine": 1}),
    ],
    [Point("", "regmean", {}, 2.0), Point("", "regmean", {}, 0.3)],
    [Point("", "ties", {"density": 0.5, "normalize": "none"}, 1.5), Point("", "dare_linear", {}, 0.7, 2)],
    [
        Point("", "resta", {"strength": 0.5}, prepare_from="strength"),
        Point("", "resta", {"strength": 1.2}, prepare_from="strength"),
    ],
]


def alone(setup: MergeSetup, point: Point) -> dict[str, torch.Tensor]:
    """By the door that everybody uses."""
    problem = setup.problem
    adapters = [a.with_(weight=point.safety_weight) if a.role == "safety" else a for a in problem.adapters]
    data: dict[str, Any] = {"model": problem.model, "harm": problem.harm, "benign": problem.benign}
    found = merge(
        adapters,
        point.method,
        **data,
        adapter_benign=problem.adapter_benign,
        seed=problem.seed,
        rank=point.rank,
        **point.options,
    ).adapter
    return {module: found.delta(module).double() for module in found.modules}


@pytest.mark.parametrize("points", POINTS, ids=lambda points: points[0].method)
def test_a_trial_is_the_merge_of_its_command(points: list[Point], setup: MergeSetup) -> None:
    merges = SharedMerges(setup.problem)
    for point in points:
        found, expected = merges.update(point), alone(setup, point)
        assert found.keys() == expected.keys()
        for module, factors in found.items():
            torch.testing.assert_close(factors.delta(torch.float64), expected[module], rtol=1e-4, atol=1e-6)
            assert point.rank is None or factors.rank <= point.rank


def test_a_world_is_measured_on_its_dev_prompts(setup: MergeSetup) -> None:
    update = SharedMerges(setup.problem).update(Point("", "task_arithmetic", {"safety_strength": 0.7}))
    before = {name: p.clone() for name, p in setup.model.named_parameters()}
    found = WorldArena(setup, 8).measure(update)
    assert all(torch.equal(p, before[name]) for name, p in setup.model.named_parameters())
    with UpdatedModel(setup.model, list(setup.problem.spaces)) as updated:
        updated.set(update)
        expected = measure(setup.world, setup.model, setup.tasks, split="dev", n=8)
    assert found.safety == expected.safety and found.over_refusal == expected.over_refusal
    assert found.skills == {"swap_pairs": (expected.mean_utility, 8)}
    assert Measured.from_dict(found.to_dict()) == found


def test_what_cannot_be_made_of_what_is_given_is_told_before_it_is_tried(setup: MergeSetup) -> None:
    assert refusal_of(setup.problem, Point("", "sst", {"mu": 1.0})) is None
    said = refusal_of(setup.problem, Point("", "ties", {"density": 2.0}))
    assert said is not None and "density" in said


def test_a_skill_counts_as_much_as_another(tmp_path: Path) -> None:
    found = Measured(Counts(1, 2), None, {"long": (0.5, 100), "short": (1.0, 1)})
    assert found.skill == 0.75
