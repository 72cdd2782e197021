"""A safety target along taught merges: the path's corners, who sees which prompts, and what dense models do."""

from typing import Any

import pytest
import torch
from tests.sst.conftest import THREE, TWO, batches, faint_adapter

from sst_merge import merge
from sst_merge.errors import MergeError
from sst_merge.fim_calculator import CoreModel, build_spaces, divergences
from sst_merge.lora_utils import Adapter
from sst_merge.methods import MergeProblem
from sst_merge.sst import SSTMerge, SSTOptions, flow, teacher_refine
from sst_merge.sst.region import merged_cores
from sst_merge.sst.safety_path import measured_divergences
from sst_merge.sst.safety_target import reach_target
from sst_merge.sst.taught_path import TAUGHT_MU, TaughtPath

HARM, BENIGN = batches(1, 64, 16, 6), batches(2, 32, 16, 6)
TARGET = {"safety_target": 0.9, "if_missed": "safest"}


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here does not depend on how long teachers teach."""
    monkeypatch.setattr(teacher_refine, "PASSES", 2)


def rows(found: Any) -> set[tuple[int, ...]]:
    """Every prompt with its answer, as a name."""
    return {tuple(row.tolist()) for batch in found for row in batch.input_ids}


def problem_of(model: Any, adapters: list[Adapter], **given: Any) -> MergeProblem:
    return MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN, **given)


def half_of_them(_: Any, some: Any) -> list[bool]:
    return [bool(i % 2) for batch in some for i in range(len(batch))]


def delta(space: Any, core: Any) -> Any:
    return space.left @ core @ space.right.T


def test_the_corners_are_skills_taught_merges_and_the_safety_adapter(
    relative_error: Any, model: Any, adapters: list[Adapter]
) -> None:
    sst = SSTMerge(problem_of(model, adapters), SSTOptions.model_validate(TARGET))
    assert sst.options.refine == "teachers"
    path = TaughtPath(sst, 1.25)
    points = path.points
    assert [p.theta for p in points] == sorted((p.theta for p in points), reverse=True)
    assert (points[0].theta, points[-1].theta, len(points)) == (1.0, 0.0, 17)
    at = {p.theta: merged_cores(sst.utility, path.change_at(p)) for p in points}
    for m, space in sst.problem.spaces.items():
        skill, safety = (a.delta(m, dtype=torch.float64) for a in adapters)
        assert relative_error(delta(space, at[0.0][m]), skill) < 1e-9
        assert relative_error(delta(space, at[1.0][m]), 1.25 * safety) < 1e-9
        lower, upper = (path.taught[f"taught, μ = {mu:g}"].cores[m] for mu in TAUGHT_MU)
        assert relative_error(at[0.5][m], lower) < 1e-9 and relative_error(at[0.8][m], upper) < 1e-9
        assert relative_error(at[0.65][m], (lower + upper) / 2) < 1e-9
        assert relative_error(at[0.25][m], (sst.utility[m] + lower) / 2) < 1e-9


def test_teachers_see_no_prompt_that_is_tested(
    model: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {"fit": set(), "held": set()}
    taught_with: list[float] = []
    real = flow.refine_by_teachers

    def watched(model: Any, spaces: Any, teachers: Any, start: Any, **given: Any) -> Any:
        for teacher in teachers:
            if teacher.name == "safety":
                taught_with.append(teacher.weight)
                seen["fit"] |= rows(teacher.fit)
                seen["held"] |= rows(teacher.held)
        return real(model, spaces, teachers, start, **given)

    monkeypatch.setattr(flow, "refine_by_teachers", watched)
    sst = SSTMerge(problem_of(model, adapters, refuses=half_of_them), SSTOptions.model_validate(TARGET))
    choice = reach_target(sst)
    tested = rows(sst.held_harm)
    assert taught_with == [1 / mu for mu in TAUGHT_MU]
    assert seen["fit"] and seen["held"] and not seen["fit"] & seen["held"]
    assert seen["fit"] | seen["held"] == rows(HARM) - tested and len(tested) == 32
    assert len(choice.steps) == 17 and not choice.reached


def test_nothing_is_taught_where_the_safety_adapter_itself_misses_the_target(
    model: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("taught before the path's safe end was tested")

    monkeypatch.setattr(flow, "refine_by_teachers", never)
    sst = SSTMerge(problem_of(model, adapters, refuses=half_of_them), SSTOptions(safety_target=0.9))
    with pytest.raises(MergeError, match=r"15 of 32 held-out harmful prompts refused"):
        reach_target(sst)


def test_the_report_tells_what_the_written_merge_does(
    build: Any, model: Any, adapters: list[Adapter], refuses: Any
) -> None:
    data: dict[str, Any] = {"harm": HARM, "benign": BENIGN, "compute_dtype": torch.float64}
    result = merge(adapters, "sst", model=model, refuses=refuses, safety_target=0.9, **data)
    report = result.report.method_report
    target = report["safety_target"]
    assert report["refine"] == "teachers" and report["mu"] is None and report["strength"] is None
    assert set(target["taught"]) == {f"taught, μ = {mu:g}" for mu in TAUGHT_MU}
    assert all(of["held_out"]["after"] <= of["held_out"]["before"] for of in target["taught"].values())
    accepted = [step for step in target["path"] if step["accepted"]]
    assert target["reached"] and 2 < len(accepted) < len(target["path"])
    assert target["chosen"]["divergence"] == min(step["divergence"] for step in accepted)
    held = SSTMerge(problem_of(model, adapters), SSTOptions(safety_target=0.9)).held_harm
    assert sum(refuses(build.add_deltas(model, result.adapter), held)) == target["chosen"]["refused"]
    assert target["chosen"]["prompts"] == 32


def test_several_skills_start_from_their_own_taught_merge(relative_error: Any, model: Any) -> None:
    adapters = [faint_adapter(TWO, "one", 11), faint_adapter(TWO, "two", 22), faint_adapter(TWO, "safe", 33, "safety")]
    own = {"one": tuple(batches(5)), "two": tuple(batches(6))}
    problem = problem_of(model, adapters, adapter_benign=own, refuses=half_of_them)
    sst = SSTMerge(problem, SSTOptions.model_validate(TARGET))
    path = TaughtPath(sst)
    # Harmful prompts play no part in it.
    expected = sst.taught(sst.utility, 0.0, harm=((), ()), on_all=False).cores
    at_zero = merged_cores(sst.utility, path.change_at(path.points[-1]))
    for m in sst.problem.spaces:
        assert relative_error(at_zero[m], expected[m]) < 1e-9
    # Divergence is measured from there, so that the path's lower end has none.
    choice = reach_target(sst)
    assert choice.steps[-1].divergence == pytest.approx(0.0, abs=1e-12) and choice.steps[0].divergence > 0


def test_what_safety_costs_is_judged_on_the_skills_own_prompts_too(model: Any) -> None:
    """Common prompts alone do not see what becomes of a skill; prompts that are among them count once."""
    adapters = [faint_adapter(TWO, "one", 11), faint_adapter(TWO, "two", 22), faint_adapter(TWO, "safe", 33, "safety")]
    own = {"one": tuple(batches(5)), "two": tuple(BENIGN[:1])}
    sst = SSTMerge(problem_of(model, adapters, adapter_benign=own), SSTOptions.model_validate(TARGET))
    added = rows(sst.judged_benign) - rows(sst.held_benign)
    assert len(added) == 3 and added < rows(own["one"])
    assert added == rows(sst.own_parts("one")[1]) and not added & rows(sst.own_parts("one")[0])
    # A change that leaves the common prompts alone is seen where a skill's own prompts are.
    space = sst.problem.spaces
    away = {m: -0.5 * core for m, core in sst.utility.items()}
    with CoreModel(model, space) as attached:
        (together,) = measured_divergences(sst, attached, [away])
        parts = [
            divergences(attached, [merged_cores(sst.utility, away)], sst.utility, some)[0]
            for some in (sst.held_benign, sst.own_parts("one")[1])
        ]
    tokens = [
        sum(int((b.labels[:, 1:] >= 0).sum()) for b in some) for some in (sst.held_benign, sst.own_parts("one")[1])
    ]
    expected = sum(t * d for t, d in zip(tokens, parts, strict=True)) / sum(tokens)
    assert together == pytest.approx(expected, rel=1e-9)


def test_a_skill_with_one_prompt_is_judged_on_the_common_ones(model: Any) -> None:
    """One prompt cannot be both kept and set aside."""
    adapters = [faint_adapter(TWO, "one", 11), faint_adapter(TWO, "safe", 33, "safety")]
    own = {"one": tuple(batches(5, 1, 1))}
    sst = SSTMerge(problem_of(model, adapters, adapter_benign=own), SSTOptions(tax_budget=0.05))
    assert rows(sst.judged_benign) == rows(sst.held_benign)


def test_on_an_aligned_base_the_path_ends_at_the_base(model: Any) -> None:
    adapters = [faint_adapter(THREE, "skill", 11)]
    options = SSTOptions.model_validate({**TARGET, "aligned_base": True})
    sst = SSTMerge(problem_of(model, adapters, refuses=half_of_them), options)
    path = TaughtPath(sst)
    for m, core in merged_cores(sst.utility, path.change_at(path.points[0])).items():
        assert float(core.norm()) < 1e-12, m
    assert set(path.taught) == {f"taught, μ = {mu:g}" for mu in TAUGHT_MU}


def test_where_nothing_is_left_for_teachers_the_closed_form_is_said(model: Any, adapters: list[Adapter]) -> None:
    result = merge(
        adapters,
        "sst",
        model=model,
        harm=HARM,
        benign=BENIGN,
        refuses=lambda _, some: [True for batch in some for _ in batch.input_ids],
        compute_dtype=torch.float64,
        safety_target=0.9,
        calibration_holdout=0.985,
    )
    assert result.report.method_report["refine"] == 0
    assert any("the target is tested on all harmful prompts but one" in text for text in result.report.warnings)
