"""Teachers: what they said is kept truly, J and its gradient are the whole model's, and steps never go astray."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.sst.conftest import TWO as SHAPES
from tests.sst.conftest import faint_adapter
from torch import Tensor
from torch.func import functional_call

from sst_merge import merge
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import DataError, MergeError
from sst_merge.experiments.method_sweeps import METHOD_SWEEPS
from sst_merge.experiments.updates_by_knob import SkillsThenSafety, swept_updates
from sst_merge.fim_calculator import CoreModel, build_spaces, role_patches
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.methods import MergeProblem
from sst_merge.sst import SSTMerge, SSTOptions, teacher_objective, teacher_refine, teacher_steps
from sst_merge.sst.teacher_objective import Teacher, TeacherObjective
from sst_merge.sst.teacher_refine import Taught, refine_by_teachers
from sst_merge.sst.teachers import teachers_of
from sst_merge.sst.top_distribution import TopDistribution


def some_batches(seed: int, n: int, *, vocabulary: int = 37, length: int = 7) -> tuple[Batch, ...]:
    """Answers of several lengths, prompts padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (n, length), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :3] = -100
    for i in range(0, n, 2):
        labels[i, 5:], mask[i, 5:] = -100, 0
    return (Batch(ids, mask, labels),)


@pytest.fixture(scope="module")
def adapters() -> list[Adapter]:
    skills = [faint_adapter(SHAPES, name, seed) for name, seed in (("one", 11), ("two", 22))]
    return [*skills, faint_adapter(SHAPES, "safe", 33, "safety")]


Cores = dict[str, Tensor]


def dense_log_p(model: Any, spaces: Any, cores: Cores | None, ids: Tensor) -> Tensor:
    """One prompt through the model with ΔW formed, over the whole vocabulary."""
    moved = {
        f"{m}.weight": model.get_submodule(m).weight + spaces[m].left @ core @ spaces[m].right.T
        for m, core in (cores or {}).items()
    }
    return functional_call(model, moved, kwargs={"input_ids": ids[None]}).logits[0, :-1].log_softmax(-1)


def answers(batches: Sequence[Batch]) -> list[tuple[Tensor, Tensor]]:
    """Every prompt's tokens without padding, and which positions predict its answer."""
    found = []
    for batch in batches:
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            length = int(mask.sum())
            found.append((ids[:length], labels[1:length] >= 0))
    return found


def dense_divergence(model: Any, spaces: Any, teacher: Cores | None, cores: Cores, batches: Sequence[Batch]) -> Tensor:
    """D_T(M; X), one prompt at a time."""
    found = []
    for ids, kept in answers(batches):
        p, q = (dense_log_p(model, spaces, at, ids)[kept] for at in (teacher, cores))
        found.append((p.exp() * (p - q)).sum(-1).mean())
    return torch.stack(found).mean()


@pytest.mark.parametrize("vocabulary", [5, 64, 65, 200])
def test_kept_distributions_give_the_divergence_of_their_partition(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    log_p, log_q = (
        (3 * torch.randn(6, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1) for _ in range(2)
    )
    full = (log_p.exp() * (log_p - log_q)).sum(-1)
    found = TopDistribution.of(log_p).divergence(log_q)
    by_hand = []
    for p, q in zip(log_p.exp(), log_q.exp(), strict=True):
        order = p.argsort(descending=True)
        parts = [[int(token)] for token in order[:64]] + ([order[64:].tolist()] if vocabulary > 64 else [])
        pairs = [(float(p[part].sum()), float(q[part].sum())) for part in parts]
        by_hand.append(sum(a * torch.tensor(a / b, dtype=torch.float64).log() for a, b in pairs))
    torch.testing.assert_close(found, torch.stack(by_hand), rtol=1e-10, atol=1e-12)
    assert bool((found <= full + 1e-12).all())
    if vocabulary <= 65:
        torch.testing.assert_close(found, full, rtol=1e-10, atol=1e-12)
    else:
        assert float(full.sum() - found.sum()) > 1e-3


def test_a_certain_teacher_leaves_no_mass_and_no_nan() -> None:
    """float32, one token with all the mass: the rest is 0 · log 0."""
    logits = torch.zeros(2, 100)
    logits[:, 7] = 200.0
    pupil = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    divergence = TopDistribution.of(logits.log_softmax(-1)).divergence(pupil.log_softmax(-1))
    torch.testing.assert_close(divergence, -pupil.log_softmax(-1)[:, 7])
    (gradient,) = torch.autograd.grad(divergence.sum(), pupil)
    assert bool(torch.isfinite(gradient).all())


def test_objective_and_gradient_are_those_of_the_whole_model(relative_error: Any, model: Any, adapters: Any) -> None:
    spaces = build_spaces(adapters, dtype=torch.float64)
    safe = role_patches(adapters, spaces).safety
    one = role_patches(adapters[:1], spaces).utility
    teachers = [
        Teacher("one", one, 0.7, some_batches(1, 12), ()),
        Teacher("safe", safe, 2.0, some_batches(2, 5), ()),
        Teacher("base", None, 0.3, some_batches(3, 4), ()),
    ]
    start = {m: 0.5 * one[m] + 0.4 * safe[m] for m in spaces}
    variables = {m: core.clone().requires_grad_(True) for m, core in start.items()}
    parts = [dense_divergence(model, spaces, t.cores, variables, t.fit) for t in teachers]
    total = torch.stack([t.weight * part for t, part in zip(teachers, parts, strict=True)]).sum()
    expected = dict(zip(variables, torch.autograd.grad(total, list(variables.values())), strict=True))
    with CoreModel(model, spaces) as attached:
        objective = TeacherObjective(attached, teachers, "fit")
        assert len(objective.lessons) == 4  # twelve prompts are two lessons
        found = objective.divergences(start)
        assert found == pytest.approx([float(part.detach()) for part in parts], rel=1e-9)
        assert objective.total(found) == pytest.approx(float(total.detach()), rel=1e-9)
        gradient = objective.gradient(start)
        halves = [objective.gradient(start, dict.fromkeys(chosen, 1.0)) for chosen in ((0, 3), (1, 2))]
        tripled = objective.gradient(start, {0: 3.0, 3: 1.0})
        lone = objective.gradient(start, {0: 1.0})
        for m in spaces:
            assert relative_error(gradient[m], expected[m]) < 1e-9
            assert relative_error(halves[0][m] + halves[1][m], expected[m]) < 1e-9
            # Passes of other widths round elsewhere: the model's norms are float32.
            assert relative_error(tripled[m], halves[0][m] + 2 * lone[m]) < 1e-6
        with pytest.raises(DataError, match="no teacher has held prompts"):
            TeacherObjective(attached, teachers, "held")


def test_small_lessons_go_through_the_model_together(
    relative_error: Any, model: Any, adapters: Any, monkeypatch: Any
) -> None:
    """One pass for lessons of several teachers and widths, another for one that would be mostly padding."""
    spaces = build_spaces(adapters, dtype=torch.float64)
    one = role_patches(adapters[:1], spaces).utility
    lessons = [some_batches(1, 8), some_batches(2, 5, length=9), some_batches(3, 4, length=40)]
    teachers = [Teacher(str(i), one if i else None, 0.3 + i, batches, ()) for i, batches in enumerate(lessons)]
    start = {m: 0.5 * core for m, core in one.items()}
    with CoreModel(model, spaces) as attached:
        passes: list[int] = []
        asked = attached.answers
        monkeypatch.setattr(attached, "answers", lambda batch, **how: passes.append(len(batch)) or asked(batch, **how))

        def found(largest: int) -> tuple[list[int], list[float], dict[str, Tensor]]:
            monkeypatch.setattr(teacher_objective, "_PASS", largest)
            objective = TeacherObjective(attached, teachers, "fit")
            divergences = objective.divergences(start)  # asks every teacher once
            passes.clear()
            gradient = objective.gradient(start)
            return list(passes), divergences, gradient

        (each, apart, expected), (few, together, gradient) = found(0), found(768)
    assert sorted(each) == [4, 5, 8] and sorted(few) == [4, 13]
    assert together == pytest.approx(apart, rel=1e-9)
    assert max(relative_error(gradient[m], expected[m]) for m in spaces) < 1e-9


def test_a_pass_takes_as_many_common_prompts_as_of_a_skill_and_all_have_their_turn(
    relative_error: Any, model: Any, adapters: Any
) -> None:
    """Over the passes in which every lesson has had its turn the gradients add up to those of all lessons."""
    spaces = build_spaces(adapters, dtype=torch.float64)
    one = role_patches(adapters[:1], spaces).utility
    teachers = [
        Teacher("one", one, 1.0, some_batches(1, 16), ()),
        Teacher("base", None, 1.0, some_batches(3, 48), (), per_pass=16),
    ]
    start = {m: 0.5 * core for m, core in one.items()}
    with CoreModel(model, spaces) as attached:
        objective = TeacherObjective(attached, teachers, "fit")
        turns = teacher_steps.Turns(objective, random.Random(0))
        passes = [turns.one_pass() for _ in range(3)]
        gradients = [objective.gradient(start, group) for groups in passes for group in groups]
        expected = objective.gradient(start)
    each = [[index for group in groups for index in group] for groups in passes]
    assert [sorted(index for index in of if index < 2) for of in each] == [[0, 1]] * 3
    assert sorted(index for of in each for index in of if index >= 2) == list(range(2, 8))
    assert all(len(of) == turns.lessons == 4 for of in each) and {len(groups) for groups in passes} == {turns.groups}
    for m in spaces:
        assert relative_error(torch.stack([of[m] for of in gradients]).sum(0) / 3, expected[m]) < 1e-6


def calibration(seed: int, n: int) -> list[Batch]:
    """Rows of few different tokens, so that what is learnt on some holds on others."""
    ids = torch.randint(0, 5, (n, 7), generator=torch.Generator().manual_seed(seed))
    return [Batch(ids, torch.ones_like(ids), ids.where(torch.arange(7) > 2, -100))]


OWN = {"one": calibration(5, 16), "two": calibration(6, 16)}
HARM, GENERAL = calibration(1, 16), calibration(2, 16)
DATA = {"harm": HARM, "benign": [*OWN["one"], *GENERAL], "adapter_benign": OWN}
TAUGHT = {"refine": "teachers", "utility": "fisher"}


def problem_of(model: Any, adapters: Sequence[Adapter], **changed: Any) -> MergeProblem:
    given = {**DATA, **changed}
    spaces = build_spaces(adapters, dtype=torch.float64)
    return MergeProblem(adapters, spaces, model, given["harm"], given["benign"], given["adapter_benign"])


def rows(batches: Sequence[Batch]) -> list[tuple[int, ...]]:
    return sorted(tuple(ids.tolist()) for batch in batches for ids in batch.input_ids)


def test_everyone_teaches_on_what_is_their_own(model: Any, adapters: Any) -> None:
    weighted = [adapters[0].with_(weight=3.0), *adapters[1:]]
    sst = SSTMerge(problem_of(model, weighted), SSTOptions(mu=0.5, **TAUGHT))
    found = {teacher.name: teacher for teacher in teachers_of(sst, 2.0)}
    weights = {name: teacher.weight for name, teacher in found.items()}
    assert weights == {"one": 0.75, "two": 0.25, "base": 0.5, "safety": 2.0}
    prompts = {"one": OWN["one"], "two": OWN["two"], "base": GENERAL, "safety": HARM}
    for name, teacher in found.items():
        assert rows([*teacher.fit, *teacher.held]) == rows(prompts[name])
        assert teacher.fit and teacher.held
    assert found["base"].cores is None
    assert found["base"].per_pass == max(sum(map(len, found[name].fit)) for name in ("one", "two"))
    assert {found[name].per_pass for name in ("one", "two", "safety")} == {None}
    for module, core in sst.each["one"].items():  # itself, whatever its weight
        torch.testing.assert_close(found["one"].cores[module], core)
    assert [teacher.name for teacher in teachers_of(sst, 0.0)] == ["one", "two", "base"]
    # Without data of its own a skill is taught by the skills' merge, on what is nobody's.
    sst = SSTMerge(problem_of(model, weighted, adapter_benign={"one": OWN["one"]}), SSTOptions(mu=0.5))
    found = {teacher.name: teacher for teacher in teachers_of(sst, 2.0)}
    assert found["merged skills"].cores is sst.utility
    assert rows([*found["merged skills"].fit, *found["merged skills"].held]) == rows(GENERAL)
    assert found["merged skills"].weight == 0.25 and "base" not in found
    # An aligned base is its own teacher on harmful prompts.
    sst = SSTMerge(problem_of(model, weighted[:2]), SSTOptions(mu=0.5, aligned_base=True, **TAUGHT))
    *_, safe = teachers_of(sst, 2.0)
    assert (safe.name, safe.cores, safe.weight) == ("aligned base", None, 2.0)
    assert rows([*safe.fit, *safe.held]) == rows(HARM)
    for bad in (-1.0, 0.0):
        wrong = [a.with_(weight=bad) for a in adapters[:2]] + adapters[2:]
        with pytest.raises(MergeError, match="refine: teachers needs weights ≥ 0"):
            teachers_of(SSTMerge(problem_of(model, wrong), SSTOptions(mu=0.5, refine="teachers")), 1.0)


@pytest.mark.parametrize(
    ("chosen", "options", "names"),
    [
        ((0, 2), {"utility": "sum"}, ["one", "base", "safety"]),
        ((0, 1, 2), {"inputs": "wide"}, ["one", "two", "base", "safety"]),
        ((0, 1), {"inputs": "wide"}, ["one", "two", "base"]),
        ((0, 1), {"aligned_base": True}, ["one", "two", "base", "aligned base"]),
        ((0, 2), {"filter": {"hard": 3}, "mu": None, "utility": "sum"}, ["one", "base", "safety"]),
    ],
    ids=["one skill", "skills and safety", "skills alone", "aligned base", "hard filter"],
)
def test_every_kind_of_merge_comes_nearer_to_its_teachers(
    model: Any, adapters: Any, chosen: tuple[int, ...], options: dict[str, Any], names: list[str]
) -> None:
    """J on held-out prompts, of the whole model with ΔW formed, is what the report says and falls."""
    picked = [adapters[i] for i in chosen]
    settings = {"mu": 0.5, **TAUGHT, **options}
    settings = {name: value for name, value in settings.items() if value is not None}
    own = {a.name: OWN[a.name] for a in picked if a.role == "utility"}
    data = DATA | {"adapter_benign": own}
    found = merge(picked, "sst", model=model, compute_dtype=torch.float64, seed=4, **data, **settings)
    said = found.report.method_report["teachers"]
    assert [teacher["teacher"] for teacher in said["teachers"]] == names
    assert said["held_out"]["after"] < said["held_out"]["before"]
    assert said["steps"] >= said["passes"] >= said["best_pass"] > 0 and said["kept_bytes"] > 0
    problem = replace(problem_of(model, picked, adapter_benign=own), seed=4)
    sst = SSTMerge(problem, SSTOptions.model_validate(settings))
    mu = settings.get("mu", 1.0)
    nu, start = (0.0, sst.utility) if sst.skills_alone else (1.0 / mu, sst.merged(mu=mu))
    spaces = sst.problem.spaces

    def held(cores: Mapping[str, torch.Tensor]) -> float:
        of = ((t.weight, dense_divergence(model, spaces, t.cores, cores, t.held)) for t in teachers_of(sst, nu))
        return sum(weight * float(divergence.detach()) for weight, divergence in of)

    best = sst.taught(start, nu, on_all=False)
    assert (best.on_all, best.best_pass) == (0, said["best_pass"])
    assert said["held_out"]["after"] == pytest.approx(held(best.cores), rel=1e-5)
    # At last they learnt on the held-out prompts too.
    last = {m: s.left.T @ found.adapter.delta(m, dtype=torch.float64) @ s.right for m, s in spaces.items()}
    assert said["passes_over_all"] == said["best_pass"]
    assert held(last) < said["held_out"]["after"]
    assert any("skills alone" in warning for warning in found.report.warnings) == (names[-1] == "base")


def test_the_best_point_is_kept_and_never_worse_than_the_start(model: Any, adapters: Any) -> None:
    """Steps far too large find nothing better, so smaller ones are tried, and at last the start comes back."""
    sst = SSTMerge(problem_of(model, adapters), SSTOptions(mu=0.5, **TAUGHT))
    start = sst.merged(mu=0.5)
    teachers, spaces = teachers_of(sst, 2.0), sst.problem.spaces

    told: list[tuple[str, int, int]] = []

    def taught(*rates: float) -> Taught:
        told.clear()
        return refine_by_teachers(
            model, spaces, teachers, start, on_all=1.0, rates=rates, floor=0.0, progress=lambda *of: told.append(of)
        )

    wild = taught(40.0, 30.0)
    assert (wild.after, wild.best_pass, wild.passes) == (wild.before, 0, 2 + teacher_refine.PASSES)
    assert wild.rate == 30.0 and len(wild.looks) == 3 and min(wild.looks) > wild.before
    assert all(torch.equal(wild.cores[m], start[m]) for m in SHAPES)
    # As if the smaller rate had been the first.
    alone, later = taught(0.05, 0.01), taught(30.0, 0.05, 0.01)
    assert later.rate == alone.rate == 0.05 and later.passes == 2 + alone.passes and later.looks[1:] == alone.looks
    assert later.seen > alone.seen and later.steps > alone.steps
    assert all(torch.equal(later.cores[m], alone.cores[m]) for m in SHAPES)
    # Every step is told, and which bar it belongs to.
    bars = dict.fromkeys(stage for stage, *_ in told)
    assert list(bars) == ["learning from teachers", "learning, smaller steps", "learning, all prompts"]
    of = {bar: [(done, total) for stage, done, total in told if stage == bar] for bar in bars}
    assert all([done for done, _ in steps] == list(range(1, len(steps) + 1)) for steps in of.values())
    assert [len(steps) / steps[-1][1] for steps in of.values()] == [2 / teacher_refine.PASSES, 1.0, 1.0]
    assert sum(map(len, of.values())) == later.steps
    # The best point is the best of all that were looked at.
    looked: list[float] = []

    class Watched(TeacherObjective):
        def total(self, divergences: Sequence[float]) -> float:
            looked.append(super().total(divergences))
            return looked[-1]

    found = refine_by_teachers(model, sst.problem.spaces, teachers_of(sst, 2.0), start, objective=Watched)
    assert found.after == min(looked) < looked[0] == found.before
    assert found.looks == tuple(looked[1:]) and len(found.looks) == found.passes // 2
    with CoreModel(model, sst.problem.spaces) as attached:
        held = TeacherObjective(attached, teachers_of(sst, 2.0), "held")
        assert held.total(held.divergences(found.cores)) == found.after


def test_steps_are_adam_s_and_with_a_high_floor_those_of_plain_gradients(relative_error: Any) -> None:
    """Against PyTorch's Adam, whose eps is the floor where all gradients are alike from step to step."""
    generator = torch.Generator().manual_seed(3)
    start = {m: torch.randn(3, 4, generator=generator, dtype=torch.float64) for m in ("a", "b")}
    gradient = {
        m: torch.randn(3, 4, generator=generator, dtype=torch.float64) * size
        for m, size in zip("ab", (1, 9), strict=True)
    }
    rms = float(torch.cat([g.flatten() for g in gradient.values()]).square().mean().sqrt())
    for floor in (0.0, 0.5, 1e6):
        steps = teacher_steps.AdamSteps(start, 0.1, 10, floor)
        expected = {m: core.clone() for m, core in start.items()}
        adam = torch.optim.Adam(list(expected.values()), lr=0.1, betas=(0.9, 0.99), eps=max(2 * floor * rms, 1e-12))
        for taken in range(10):
            for m, core in expected.items():
                core.grad = 2 * gradient[m]
            adam.param_groups[0]["lr"] = 0.1 * (1 - taken / 10)
            adam.step()
            steps.take(gradient, 2.0)
        assert max(relative_error(steps.cores[m], expected[m]) for m in start) < 1e-9
    moved = {m: (steps.cores[m] - start[m]) / gradient[m] for m in start}
    assert float(torch.cat([of.flatten() for of in moved.values()]).std()) < 1e-5 * abs(float(moved["a"][0, 0]))


def test_the_last_passes_are_over_all_prompts(model: Any, adapters: Any) -> None:
    """From the best point, as long as the way to it was; where there is none, nothing more is learnt."""
    problem = replace(problem_of(model, adapters[:2]), seed=4)
    sst = SSTMerge(problem, SSTOptions(mu=0.5, inputs="wide", **TAUGHT))
    teachers, start, spaces = teachers_of(sst, 0.0), sst.utility, sst.problem.spaces
    made: list[tuple[str, list[tuple[int, ...]]]] = []

    class Watched(TeacherObjective):
        def __init__(self, attached: Any, teachers: Any, part: str, **more: Any) -> None:
            super().__init__(attached, teachers, part, **more)
            made.append((part, rows([lesson.batch for lesson in self.lessons])))

    found = refine_by_teachers(model, spaces, teachers, start, seed=4, on_all=True, objective=Watched)
    (_, fit), (_, held), (part, every) = made
    assert part == "fit" and every == sorted([*fit, *held])
    assert found.on_all == found.best_pass > 0
    plain = refine_by_teachers(model, spaces, teachers, start, seed=4)
    assert (plain.on_all, plain.after, plain.looks) == (0, found.after, found.looks)
    # What was held out is learnt too: there they come nearer than they were.
    with CoreModel(model, spaces) as attached:
        objective = TeacherObjective(attached, teachers, "held")
        assert objective.total(objective.divergences(found.cores)) < found.after
    assert all(torch.equal(found.cores[m], sst.taught_skills().cores[m]) for m in SHAPES)
    wild = refine_by_teachers(model, spaces, teachers, start, on_all=True, rates=(30.0,))
    assert (wild.best_pass, wild.on_all) == (0, 0)
    assert all(torch.equal(wild.cores[m], start[m]) for m in SHAPES)


def test_the_same_bytes_again_and_where_teachers_are_asked_anew(model: Any, adapters: Any, monkeypatch: Any) -> None:
    sst = SSTMerge(problem_of(model, adapters), SSTOptions(mu=0.5, **TAUGHT))
    start = sst.merged(mu=0.5)
    kept = sst.taught(start, 2.0)
    assert all(torch.equal(kept.cores[m], sst.taught(start, 2.0).cores[m]) for m in SHAPES)
    monkeypatch.setattr(teacher_objective, "_KEPT_BYTES", 0)
    again = sst.taught(start, 2.0)
    assert again.kept_bytes == 0 < kept.kept_bytes
    assert all(torch.equal(kept.cores[m], again.cores[m]) for m in SHAPES)


def test_the_closed_form_is_the_first_newton_step(build: Any, relative_error: Any, model: Any) -> None:
    """Teachers near the base: the Fisher-weighted merge is one Newton step on J, and leaves a third-order gradient."""
    module = next(iter(SHAPES))
    experts = []
    for name, seed in (("one", 11), ("two", 22)):
        factors = build.random_factors(*SHAPES[module], 2, seed=seed)
        experts.append(Adapter.from_factors({module: LoraFactors(1e-3 * factors.b, factors.a)}, name=name))
    spaces = build_spaces(experts, dtype=torch.float64)
    cores = [role_patches([expert], spaces).utility for expert in experts]
    data = [some_batches(1, 6), some_batches(2, 6)]
    teachers = [Teacher(e.name, c, 0.5, d, ()) for e, c, d in zip(experts, cores, data, strict=True)]

    def fisher(teacher: Teacher) -> Tensor:
        """Σ p ∇log p ∇log pᵀ over all that the teacher might say, in its mean over tokens and prompts."""
        found = []
        for ids, kept in answers(teacher.fit):

            def log_p(core: Tensor, ids: Tensor = ids, kept: Tensor = kept) -> Tensor:
                return dense_log_p(model, spaces, {module: core}, ids)[kept]

            at = teacher.cores[module]
            rows = torch.autograd.functional.jacobian(log_p, at, vectorize=True).flatten(2)
            found.append(torch.einsum("nv,nvi,nvj->ij", log_p(at).exp(), rows, rows) / len(rows))
        return torch.stack(found).mean(0)

    curved = [fisher(teacher) for teacher in teachers]
    ridge = 1e-6 * torch.eye(16, dtype=torch.float64) * curved[0].trace()
    pulls = [(f + ridge) @ core[module].reshape(-1) for f, core in zip(curved, cores, strict=True)]
    merged = torch.linalg.solve(curved[0] + curved[1] + 2 * ridge, pulls[0] + pulls[1]).reshape(4, 4)
    with CoreModel(model, spaces) as attached:
        objective = TeacherObjective(attached, teachers, "fit")
        start = objective.gradient(cores[0])[module]
        left = objective.gradient({module: merged})[module]
        newton = cores[0][module] - torch.linalg.solve((curved[0] + curved[1]) / 2 + ridge, start.reshape(-1)).reshape(
            4, 4
        )
    assert float(left.norm()) < 0.01 * float(start.norm())
    assert relative_error(newton, merged) < 0.02


def test_skills_with_prompts_of_their_own_are_taught_by_default(model: Any, adapters: Any) -> None:
    """On the common prompts where they have none; not where a budget or the user decides."""

    def refined(skills: Sequence[Adapter], **given: Any) -> tuple[Any, int]:
        sst = SSTMerge(problem_of(model, skills, adapter_benign=given.pop("own", OWN)), SSTOptions(**given))
        return sst.options.refine, sum(map(len, sst.held_harm))

    assert refined(adapters) == ("teachers", 4)
    assert refined(adapters[:2]) == ("teachers", 4)
    assert refined(adapters[:2], aligned_base=True) == ("teachers", 4)
    assert refined(adapters, own={"one": OWN["one"]}) == ("teachers", 4)
    assert refined(adapters, own={}) == ("teachers", 4)
    assert refined(adapters, own={"one": calibration(5, 1)}) == (0, 0)
    assert refined(adapters[1:]) == ("teachers", 4)
    assert refined(adapters, calibration_holdout=0) == (0, 0)
    assert refined(adapters, refine=0) == (0, 0)
    assert refined(adapters, tax_budget=0.05) == (0, 4)
    assert refined(adapters, safety_target=0.5) == ("teachers", 8)
    assert refined(adapters, safety_target=0.5, calibration_holdout=0.95) == (0, 15)
    assert refined(adapters, inputs="core") == (0, 4)
    assert refined(adapters, inputs="core", refine="auto") == (0, 4)
    # What a negative weight asks for, the closed form alone can do.
    assert refined([adapters[0].with_(weight=-1.0), *adapters[1:]]) == (0, 0)
    found = merge(adapters, "sst", **DATA, model=model, compute_dtype=torch.float64)
    taught = merge(adapters, "sst", **DATA, model=model, compute_dtype=torch.float64, refine="teachers")
    assert found.report.method_report["refine"] == "teachers"
    for m in SHAPES:
        assert torch.equal(found.adapter.delta(m), taught.adapter.delta(m))


def test_why_nothing_is_taught_is_said(model: Any, adapters: Any) -> None:
    few = {"one": OWN["one"], "two": calibration(6, 1)}
    given = {**DATA, "adapter_benign": few, "model": model, "compute_dtype": torch.float64}
    found = merge(adapters, "sst", **given)
    assert found.report.method_report["refine"] == 0
    said = "the closed form was taken, the adapters teach nothing: 'two' has one benign prompt of its own"
    assert any(said in warning for warning in found.report.warnings)
    assert not any("closed form" in warning for warning in merge(adapters, "sst", **given, refine=0).report.warnings)


def test_options_that_do_not_go_with_teachers() -> None:
    for given, message in (
        ({"calibration_holdout": 0.0}, "takes its best point on held-out prompts"),
        ({"vila": {}}, "vila leaves some where they are"),
    ):
        with pytest.raises(ValueError, match=message):
            SSTOptions.model_validate({"mu": 1.0, "refine": "teachers", **given})
    with pytest.raises(ValueError, match="refine"):
        SSTOptions.model_validate({"refine": "pupils"})


def test_sweeps_teach_at_every_strength(relative_error: Any, model: Any, adapters: Any) -> None:
    """What experiments measure is what the method merges."""
    swept, staged = METHOD_SWEEPS["SST-Merge, teachers"], {"refine": "teachers"}
    data = {**DATA, "model": model, "compute_dtype": torch.float64}
    skills, path = problem_of(model, adapters[:2]), SkillsThenSafety(problem_of(model, adapters), staged)
    narrow = {**staged, "inputs": "core", "utility": "fisher"}
    pairs = [
        (
            swept_updates(problem_of(model, adapters), swept)(0.5),
            merge(adapters, "sst", **data, mu=0.5, **swept.options),
        ),
        (SkillsThenSafety(skills, narrow).skills(1.0), merge(adapters[:2], "sst", **data, **narrow)),
        (path.skills(1.0), merge(adapters[:2], "sst", **data, **staged)),
    ]
    once, twice, safe = path.skills(1.0), path.skills(2.0), path.safe(1.0, 0.5)
    for m in SHAPES:
        for update, merged in pairs:
            assert relative_error(update[m].delta(torch.float64), merged.adapter.delta(m, dtype=torch.float64)) < 1e-6
        assert relative_error(twice[m].delta(), 2 * once[m].delta()) < 1e-6
        assert relative_error(safe[m].delta(), once[m].delta()) > 1e-3
