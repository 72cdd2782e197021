"""Merges with a safety target: the path's ends, what is chosen, and that the report tells what dense models do."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.sst.conftest import TWO as SHAPES
from tests.sst.conftest import batches, says

from sst_merge import merge
from sst_merge.errors import DataError, MergeError, OptionError
from sst_merge.fim_calculator import CoreModel, build_spaces
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import MergeInputs, merge_to_folder, plan_merge
from sst_merge.methods import MergeProblem
from sst_merge.sst import SSTMerge, SSTOptions
from sst_merge.sst.region import merged_cores
from sst_merge.sst.safety_path import change_at, safety_path
from sst_merge.sst.safety_target import reach_target

HARM, BENIGN = batches(1, 64, 16, 6), batches(2, 32, 16, 6)


def run(model: Any, adapters: list[Adapter], refuses: Any, **options: Any) -> Any:
    # The closed form's path; that of taught merges has tests of its own.
    options = {"safety_target": 0.9, "refine": 0, **options}
    inputs = {"harm": HARM, "benign": BENIGN, "compute_dtype": torch.float64}
    return merge(adapters, "sst", model=model, refuses=refuses, **{**inputs, **options})


def problem_of(model: Any, adapters: list[Adapter], refuses: Any = None) -> MergeProblem:
    spaces = build_spaces(adapters, dtype=torch.float64)
    return MergeProblem(adapters, spaces, model, HARM, BENIGN, refuses=refuses)


@pytest.mark.parametrize("combine", ["add", "interpolate"])
def test_the_path_runs_from_the_skill_to_the_safety_adapter(
    build: Any, relative_error: Any, model: Any, adapters: list[Adapter], combine: Any
) -> None:
    sst = SSTMerge(problem_of(model, adapters), SSTOptions(safety_target=0.9, combine=combine))
    with CoreModel(model, sst.problem.spaces) as attached:
        points = safety_path(sst, attached)
    for point, adapter in ((points[0], adapters[1]), (points[-1], adapters[0])):
        cores = merged_cores(sst.utility, change_at(sst, point))
        for m, space in sst.problem.spaces.items():
            assert relative_error(space.left @ cores[m] @ space.right.T, adapter.delta(m, dtype=torch.float64)) < 1e-9
    assert [p.theta for p in points] == sorted((p.theta for p in points), reverse=True)
    assert (points[0].theta, points[-1].theta) == (1.0, 0.0)
    curve = [p for p in points if p.share == 0]
    assert all(a.mu < b.mu for a, b in pairwise(curve))
    if combine == "add":
        assert all(a.strength > b.strength for a, b in pairwise(curve))
    else:
        assert {p.strength for p in curve[:-1]} == {1.0}
    # The first part ends where the merge is as far from the skill as the safety adapter is, by dense models.
    skilled = build.add_deltas(model, adapters[0])

    def divergence(of: Adapter) -> float:
        moved, total, tokens = build.add_deltas(model, of), 0.0, 0
        for batch in sst.held_benign:
            with torch.no_grad():
                p, q = (
                    torch.log_softmax(x(input_ids=batch.input_ids).logits[:, :-1], -1)[batch.labels[:, 1:] >= 0]
                    for x in (skilled, moved)
                )
            total, tokens = total + float((p.exp() * (p - q)).sum()), tokens + len(p)
        return total / tokens

    def adapter_at(point: Any) -> Adapter:
        cores = merged_cores(sst.utility, change_at(sst, point))
        spaces = sst.problem.spaces
        return Adapter.from_factors(
            {m: LoraFactors(spaces[m].left @ cores[m], spaces[m].right.T) for m in spaces}, name="x"
        )

    found = [divergence(adapter_at(point)) for point in curve]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(divergence(adapters[1]), rel=0.15) or curve[0].mu == pytest.approx(
        10 ** (-1.5 if combine == "add" else -2.5)
    )


def test_the_fishers_are_not_taken_at_a_point_of_the_path(model: Any, adapters: list[Adapter], refuses: Any) -> None:
    """The first points are asked before any Fisher is needed; their hooks must not be there when one is collected."""
    options = SSTOptions(safety_target=0.9, if_missed="safest", refine=0)
    choice = reach_target(SSTMerge(problem_of(model, adapters, refuses), options))
    fresh = SSTMerge(problem_of(model, adapters, refuses), options)
    fresh.change(mu=1.0)
    for module, core in change_at(fresh, choice.chosen.point).items():
        assert torch.equal(choice.change[module], core)


def test_the_report_tells_what_the_written_merge_does(
    build: Any, model: Any, adapters: list[Adapter], refuses: Any
) -> None:
    result = run(model, adapters, refuses)
    found = result.report.method_report["safety_target"]
    chosen, path = found["chosen"], found["path"]
    assert found["reached"] and found["prompts"] == 32 and found["allowed_misses"] == 0
    accepted = [step for step in path if step["accepted"]]
    assert 2 < len(accepted) < len(path) == len(accepted) + 1 < 21  # it neither passed all points nor stopped at once
    assert chosen["divergence"] == min(step["divergence"] for step in accepted)
    assert chosen["bound"] >= 0.9 > path[-1]["bound"]
    # The held-out prompts, asked of a model to which the written ΔW was added by hand.
    held = SSTMerge(problem_of(model, adapters), SSTOptions(safety_target=0.9)).held_harm
    assert sum(refuses(build.add_deltas(model, result.adapter), held)) == chosen["refused"] == 32
    assert result.report.method_report["mu"] == chosen["mu"]
    assert result.report.options["safety_target"] == 0.9
    assert result.report.method_report["samples"]["held_out_benign"] == 8


def test_a_target_that_cannot_be_reached_writes_nothing(model: Any, adapters: list[Adapter], tmp_path: Path) -> None:
    plan = plan_merge(adapters, "sst", options={"safety_target": 0.9}, given=("model", "harm", "benign"))
    inputs = MergeInputs(
        model=model, harm=HARM, benign=BENIGN, refuses=lambda _, some: [i > 3 for b in some for i in range(len(b))]
    )
    with pytest.raises(
        MergeError, match=r"cannot be reached: at the safest point .* of 32 .* misses the target by 0\."
    ):
        merge_to_folder(plan, tmp_path / "out", inputs)
    assert not (tmp_path / "out").exists()


def test_the_safest_point_is_written_where_it_is_asked_for(
    build: Any, relative_error: Any, model: Any, adapters: list[Adapter]
) -> None:
    """Where all points refuse as often, the one that leaves the skill alone is taken."""
    result = run(model, adapters, lambda _, some: [i > 1 for b in some for i in range(len(b))], if_missed="safest")
    found = result.report.method_report["safety_target"]
    assert not found["reached"] and len(found["path"]) == 21 and not any(s["accepted"] for s in found["path"])
    assert found["chosen"]["theta"] == 0.0
    for m in SHAPES:
        assert relative_error(result.adapter.delta(m), adapters[0].delta(m)) < 1e-6
    (warning,) = [w for w in result.report.warnings if "safety_target" in w]
    assert "was not reached" in warning and "safest point of the path was written" in warning


def test_more_refusals_win_where_the_target_is_missed(model: Any, adapters: list[Adapter], refuses: Any) -> None:
    def never_all(current: Any, some: Any) -> list[bool]:
        return [False, *refuses(current, some)[1:]]

    found = run(model, adapters, never_all, if_missed="safest").report.method_report["safety_target"]
    assert found["chosen"]["refused"] == max(step["refused"] for step in found["path"]) == 31
    fellows = [step for step in found["path"] if step["refused"] == 31]
    assert found["chosen"]["divergence"] == min(step["divergence"] for step in fellows)


def test_too_few_prompts_are_refused_before_the_work(model: Any, adapters: list[Adapter], refuses: Any) -> None:
    stages: list[str] = []

    def fails(**options: Any) -> str:
        with pytest.raises(DataError) as caught:
            run(model, adapters, refuses, progress=lambda stage, *_: stages.append(stage), **options)
        return str(caught.value)

    few = fails(harm=batches(1, 32, 16, 6))
    assert "needs at least 22 held-out harmful prompts" in few
    assert "found 16 (calibration_holdout 0.5 of 32). Give at least 44 harm prompts" in few
    assert "found 0 (calibration_holdout 0 of 64). Give a share above 0" in fails(calibration_holdout=0.0)
    assert "needs at least 44 held-out" in fails(confidence=0.99)
    assert set(stages) <= {"check"}
    with pytest.raises(DataError, match=r"nothing here says what a refusal is: give refuses="):
        run(model, adapters, None)
    with pytest.raises(DataError, match="gave 3 verdicts on 32 prompts"):
        run(model, adapters, lambda *_: [True] * 3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mu": 1.0}, "mu and safety_target exclude each other"),
        ({"tax_budget": 0.1}, "tax_budget and safety_target exclude"),
        ({"strength": 1.2}, "strength and safety_target exclude"),
        ({"filter": {"hard": 3}}, "needs the soft filter"),
        ({"safety_target": None, "confidence": 0.8}, "confidence belongs to safety_target"),
        ({"safety_target": None, "if_missed": "safest"}, "if_missed belongs to safety_target"),
        ({"safety_target": 1.0}, "less than 1"),
    ],
)
def test_options_that_do_not_go_together(model: Any, adapters: list[Adapter], options: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        run(model, adapters, None, **options)


def test_a_refined_merge_must_pass_again(
    build: Any, relative_error: Any, model: Any, adapters: list[Adapter], refuses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refinement is played: to a change that is safer and cheaper, then to one that gives the safety up."""
    plain = run(model, adapters, refuses)

    def half_way(sst: SSTMerge, change: Any, budget: float) -> Any:
        assert 0 < budget <= 0.02
        return {m: 0.999 * core for m, core in change.items()}

    def given_up(sst: SSTMerge, change: Any, budget: float) -> Any:
        return {m: 0.0 * core for m, core in change.items()}

    reports = {}
    for name, refined in (("kept", half_way), ("given up", given_up)):
        monkeypatch.setattr(SSTMerge, "refined", refined)
        result = run(model, adapters, refuses, refine=3)
        report = result.report.method_report["safety_target"]["refined"]
        judged = sum(refuses(build.add_deltas(model, result.adapter), HARM))
        reports[name] = (result, report, judged)
    result, report, _ = reports["given up"]
    assert report["refused"] == 0 and not report["accepted"] and not report["kept"]
    assert any("refine was given up" in warning for warning in result.report.warnings)
    assert all(relative_error(result.adapter.delta(m), plain.adapter.delta(m)) < 1e-12 for m in SHAPES)
    result, report, _ = reports["kept"]
    assert report["kept"] == report["accepted"]
    moved = max(relative_error(result.adapter.delta(m), plain.adapter.delta(m)) for m in SHAPES)
    assert (moved > 1e-6) == report["kept"]


def test_real_refinement_runs_at_the_target(model: Any, adapters: list[Adapter], refuses: Any) -> None:
    report = run(model, adapters, refuses, refine=2).report.method_report["safety_target"]
    assert report["refined"]["prompts"] == 32
    assert report["refined"]["kept"] <= (report["refined"]["divergence"] <= report["chosen"]["divergence"])


def test_on_an_aligned_base_the_path_ends_at_the_base(model: Any, adapters: list[Adapter]) -> None:
    """M_S = 0: where only the base itself refuses everything, only the base can be written."""

    def only_the_base(current: Any, some: Any) -> list[bool]:
        now = torch.cat([says(current, batch) for batch in some])
        with torch.no_grad():
            base = torch.cat([torch.log_softmax(model_alone(input_ids=b.input_ids).logits[:, 2], -1) for b in some])
        return ((now - base).abs().amax(-1) < 1e-9).tolist()

    import copy

    model_alone = copy.deepcopy(model)
    result = run(model, adapters[:1], only_the_base, aligned_base=True)
    assert result.report.method_report["safety_target"]["chosen"]["theta"] == 1.0
    assert all(result.adapter.delta(m).norm() == 0 for m in SHAPES)
