"""SST-Merge against the design's formula computed densely, and the invariances it promises."""

import gc
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.full_memory import full_memory
from tests.sst.conftest import THREE as SHAPES
from tests.sst.conftest import batches, faint_adapter

from sst_merge import merge, merge_lora_adapters
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import DataError, MergeError, OptionError
from sst_merge.fim_calculator import CoreModel, build_spaces, compute_fim
from sst_merge.fim_calculator.expansion_point import share_within_budget
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging.calibration_record import CalibrationRecord
from sst_merge.methods import MergeProblem
from sst_merge.sst import Candidate, SSTMerge, SSTOptions, optimize_merge_coefficients, wide_inputs
from sst_merge.sst.calibration_split import split_batches
from sst_merge.sst.likelihood import score_candidates
from sst_merge.sst.refine import RefineTrail
from sst_merge.sst.wide_inputs import wide_inputs_bytes, with_wide_inputs

MODULES = tuple(SHAPES)


HARM, BENIGN = batches(1), batches(2, n=16)
PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}


@pytest.fixture(scope="module")
def adapters() -> list[Adapter]:
    return [faint_adapter(SHAPES, "skill", 11), faint_adapter(SHAPES, "safe", 22, "safety")]


def run(model, adapters, **options):
    return merge(adapters, "sst", model=model, harm=HARM, benign=BENIGN, compute_dtype=torch.float64, **options)


def weight_gradients(build: Any, model, adapters, batch_list, point: Adapter) -> dict[str, torch.Tensor]:
    """Per-sample dense weight gradients at a point, by autograd, one sample at a time."""
    moved = build.add_deltas(model, point)
    rows: dict[str, list[torch.Tensor]] = {m: [] for m in MODULES}
    for batch in batch_list:
        for i in range(len(batch)):
            moved.zero_grad()
            logp = torch.log_softmax(moved(input_ids=batch.input_ids[i : i + 1]).logits[0, :-1], -1)
            labels = batch.labels[i, 1:]
            keep = labels >= 0
            logp[keep].gather(1, labels[keep][:, None]).sum().backward()
            for m in MODULES:
                rows[m].append(moved.get_submodule(m).weight.grad.clone())
    return {m: torch.stack(r) for m, r in rows.items()}


def test_soft_merge_equals_the_formula_computed_densely(build: Any, relative_error: Any, model, adapters) -> None:
    """ΔW from a linear solve on autograd gradients in the core of U, V from an SVD of the dense ΔW."""
    mu, damping, holdout = 0.5, 0.05, 0.25
    options = {
        "mu": mu,
        "damping": damping,
        "calibration_holdout": holdout,
        "combine": "interpolate",
        "fisher": {"structure": "block", "point": "merged", "estimator": "empirical"},
    }
    found = run(model, adapters, **options, seed=3)
    fit_harm, _ = split_batches(HARM, holdout, 3)
    fit_benign, _ = split_batches(BENIGN, holdout, 4)
    skill, safe = ({m: a.delta(m, dtype=torch.float64) for m in MODULES} for a in adapters)
    both = Adapter.from_factors(
        {m: LoraFactors(skill[m] + safe[m], torch.eye(SHAPES[m][1], dtype=torch.float64)) for m in MODULES}, name="sum"
    )
    harm, benign = (weight_gradients(build, model, adapters, b, both) for b in (fit_harm, fit_benign))
    fishers, bases = {}, {}
    for m in MODULES:
        u = torch.linalg.svd(torch.cat([skill[m], safe[m]], 1), full_matrices=False)[0][:, :4]
        v = torch.linalg.svd(torch.cat([skill[m], safe[m]], 0), full_matrices=False)[2][:4].T
        bases[m] = (u, v)
        rows = [torch.einsum("op,noi,iq->npq", u, g[m], v).reshape(len(g[m]), -1) for g in (harm, benign)]
        fishers[m] = tuple(r.T @ r / len(r) for r in rows)
    scale = sum(f[1].trace() for f in fishers.values()) / sum(f[0].trace() for f in fishers.values())
    for m in MODULES:
        f_h, f_b = (f + damping * f.diagonal().mean() * torch.eye(16) for f in (scale * fishers[m][0], fishers[m][1]))
        u, v = bases[m]
        m_u, m_s = u.T @ skill[m] @ v, u.T @ safe[m] @ v
        moved = torch.linalg.solve(f_h + mu * f_b, f_h @ (m_s - m_u).reshape(-1)).reshape(4, 4)
        expected = u @ (m_u + moved) @ v.T
        assert relative_error(found.adapter.delta(m, dtype=torch.float64), expected) < 1e-6
    assert found.report.method_report["structure"] == "block"


@pytest.mark.parametrize("structure", ["diagonal", "kronecker", "block", "lowrank"])
def test_limits_of_mu(relative_error: Any, model, adapters, structure) -> None:
    """μ → ∞ is the utility patch; μ → 0 the safety patch (interpolate) or the sum (add)."""
    base = {"fisher": {"structure": structure}, "damping": 0.1, "refine": 0}
    skill, safe = adapters
    for mu, combine, expected in (
        (1e9, "interpolate", lambda m: skill.delta(m, dtype=torch.float64)),
        (1e-9, "interpolate", lambda m: safe.delta(m, dtype=torch.float64)),
        (1e-9, "add", lambda m: skill.delta(m, dtype=torch.float64) + safe.delta(m, dtype=torch.float64)),
    ):
        found = run(model, adapters, mu=mu, combine=combine, **base)
        for m in MODULES:
            assert relative_error(found.adapter.delta(m, dtype=torch.float64), expected(m)) < 1e-5
        assert any("filter keeps" in w for w in found.report.warnings)


def test_hard_filter_with_all_directions_is_the_safety_patch(relative_error: Any, model, adapters) -> None:
    all_of_them = run(model, adapters, filter={"hard": 10_000}, fisher={"structure": "block"}, combine="interpolate")
    half = run(model, adapters, filter={"hard": 8}, fisher={"structure": "block"})
    for m in MODULES:
        target = adapters[1].delta(m, dtype=torch.float64)
        assert relative_error(all_of_them.adapter.delta(m, dtype=torch.float64), target) < 1e-7
        assert relative_error(half.adapter.delta(m, dtype=torch.float64), target) > 1e-2


@pytest.mark.parametrize("structure", ["diagonal", "kronecker", "block", "lowrank"])
def test_gauge_invariance(relative_error: Any, model, adapters, structure) -> None:
    """B·R and R⁻¹·A are the same adapter, so the merge is the same."""
    mix = torch.tensor([[2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)

    def regauged(adapter: Adapter) -> Adapter:
        factors = {}
        for m in adapter.modules:
            f = adapter.factors(m, dtype=torch.float64)
            factors[m] = LoraFactors(f.b @ mix, torch.linalg.inv(mix) @ f.a)
        return Adapter.from_factors(factors, name=adapter.name, role=adapter.role)

    options = {"mu": 0.3, "fisher": {"structure": structure}}
    plain, turned = run(model, adapters, **options), run(model, [regauged(a) for a in adapters], **options)
    for m in MODULES:
        assert relative_error(turned.adapter.delta(m, dtype=torch.float64), plain.adapter.delta(m)) < 1e-7


def test_result_does_not_depend_on_batch_size(relative_error: Any, model, adapters) -> None:
    whole = [Batch(*(torch.cat([getattr(b, k) for b in HARM]) for k in ("input_ids", "attention_mask", "labels")))]
    given = {"mu": 0.3, "seed": 5, "refine": 0}
    one = merge(adapters, "sst", model=model, harm=whole, benign=BENIGN, compute_dtype=torch.float64, **given)
    two = run(model, adapters, **given)
    for m in MODULES:
        assert relative_error(one.adapter.delta(m), two.adapter.delta(m)) < 1e-8


def test_the_report_knows_the_calibration_data(model, adapters) -> None:
    """By content: neither the size of the batches nor padding matters, one other label does."""
    report = run(model, adapters, mu=0.3, seed=5, refine=0).report
    # Nothing reads held-out prompts where μ is given: all make the Fishers.
    assert report.method_report["samples"]["fisher_harm"] == 12
    assert run(model, adapters, tax_budget=0.05, seed=5).report.method_report["samples"]["held_out_harm"] == 3
    recorded = report.to_dict()["calibration"]
    assert {name: found["samples"] for name, found in recorded.items()} == {"harm": 12, "benign": 16}
    padded = [
        Batch(*(torch.nn.functional.pad(getattr(b, k), (1, 0), value=v) for k, v in PADDING.items())) for b in HARM
    ]
    single = [Batch(*(getattr(b, k)[i : i + 1] for k in PADDING)) for b in HARM for i in range(len(b))]
    changed = [Batch(b.input_ids, b.attention_mask, b.labels.clone()) for b in HARM]
    changed[-1].labels[-1, 3] = -100
    digests = [CalibrationRecord.of(data).sha256 for data in (HARM, padded, single, changed, BENIGN)]
    assert digests[0] == digests[1] == digests[2] == recorded["harm"]["sha256"]
    assert len(set(digests)) == 3


def test_budget_bounds_the_divergence_of_the_chosen_point(build: Any, model, adapters) -> None:
    budget = 0.1
    result = run(model, adapters, tax_budget=budget)
    path = result.report.method_report["path"]
    chosen = next(c for c in path if c["mu"] == result.report.method_report["mu"])
    assert chosen["divergence"] <= budget < max(c["divergence"] for c in path)
    assert chosen["refusal"] == max(c["refusal"] for c in path if c["divergence"] <= budget)
    # The figures are those of a model with ΔW added by hand.
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(tax_budget=budget))
    moved, skilled = build.add_deltas(model, result.adapter), build.add_deltas(model, adapters[0])
    total, tokens = 0.0, 0
    for b in sst.held_benign:
        p, q = (
            torch.log_softmax(x(input_ids=b.input_ids).logits[:, :-1], -1)[b.labels[:, 1:] >= 0]
            for x in (skilled, moved)
        )
        total, tokens = total + float((p.exp() * (p - q)).sum().detach()), tokens + len(p)
    assert chosen["divergence"] == pytest.approx(total / tokens, rel=1e-4)


def test_divergence_falls_with_mu(model, adapters) -> None:
    report = run(model, adapters, tax_budget=0.01).report.method_report
    assert report["tax_budget"] == 0.01
    path = report["path"]
    coarse = sorted(path, key=lambda c: c["mu"])
    divergences = [c["divergence"] for c in coarse]
    assert all(a >= b - 1e-6 for a, b in pairwise(divergences))


def test_infeasible_budget_takes_the_smallest_divergence_and_warns(model, adapters) -> None:
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(mu=1.0, inputs="core"))
    choice = optimize_merge_coefficients(
        lambda mu, strength: sst.patches.safety,
        model,
        problem.spaces,
        sst.utility,
        sst.held_harm,
        sst.held_benign,
        tax_budget=1e-12,
        tune_mu=False,
        strengths=(1.0,),
    )
    assert not choice.feasible
    assert isinstance(choice.best, Candidate)
    with pytest.raises(OptionError, match="tax_budget must be > 0"):
        optimize_merge_coefficients(
            lambda mu, s: sst.patches.safety, model, problem.spaces, sst.utility, HARM, BENIGN, tax_budget=0.0
        )


@pytest.mark.parametrize("utility", ["sum", "fisher"])
def test_refine_raises_refusal_within_the_budget(build: Any, relative_error: Any, model, adapters, utility) -> None:
    budget = 0.05
    experts = [adapters[0].with_(weight=0.5), faint_adapter(SHAPES, "two", 33, "utility", 0.5), adapters[1]]
    own = {"skill": batches(5), "two": batches(6)}
    problem = MergeProblem(experts, build_spaces(experts, dtype=torch.float64), model, HARM, BENIGN, own)
    options = SSTOptions(tax_budget=budget, refine=40, utility=utility)
    sst = SSTMerge(problem, options)
    problem = sst.problem
    start = sst.change(mu=10.0)
    for m, layer in sst.gevp.layers.items():
        # The pooled data's basis is complete, so that a patch filtered with other Fishers has coordinates in it.
        assert relative_error(layer.expand(layer.coefficients(start[m])), start[m]) < 1e-9
    end = sst.refined(start, budget)
    cores = [{m: sst.utility[m] + c[m] for m in c} for c in (start, end)]
    with CoreModel(model, problem.spaces) as attached:
        before, after = score_candidates(attached, cores, sst.utility, sst.fit_harm, sst.fit_benign)
    assert after[0] > before[0] + 1e-3
    assert after[1] < 2 * budget


def test_refine_is_the_same_without_room_for_references(model, adapters, monkeypatch) -> None:
    """What the skilled model said is kept only to save time."""
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(tax_budget=0.05, refine=7))
    kept = sst.refined(sst.change(mu=1.0), 0.05)
    monkeypatch.setattr("sst_merge.sst.refine._REFERENCE_BYTES", 0)
    again = sst.refined(sst.change(mu=1.0), 0.05)
    assert all(torch.equal(kept[m], again[m]) for m in MODULES)


@pytest.mark.parametrize("above", [3, 1])
def test_refinement_goes_on_in_halves_where_memory_is_full(relative_error: Any, model, adapters, above) -> None:
    """Beyond the budget and within it, so that both losses count."""
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(tax_budget=0.05, refine=4))
    change = sst.change(mu=1.0)
    whole = sst.refined(change, 0.05)
    with full_memory(model, above=above, forward=False) as seen, pytest.warns(UserWarning, match="the same result"):
        found = sst.refined(change, 0.05)
    assert max(rows for rows, _ in seen) > above
    assert max(relative_error(found[m], whole[m]) for m in MODULES) < 1e-6
    assert min(relative_error(whole[m], change[m]) for m in MODULES) > 1e-3


@pytest.mark.parametrize("budgets", [(0.03, 0.05, 0.106, 10.0), (10.0, 0.106, 0.05, 0.03), (0.106, 0.03, 10.0, 0.05)])
def test_refinements_that_share_steps_end_where_they_would_alone(model, adapters, budgets) -> None:
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(tax_budget=0.05, refine=9, inputs="core"))
    start, trail = sst.change(mu=1.0), RefineTrail()
    ends = [sst.refined(start, budget, trail) for budget in budgets]
    for budget, end in zip(budgets, ends, strict=True):
        alone = sst.refined(start, budget)
        assert all(torch.equal(end[m], alone[m]) for m in MODULES)
    assert len({float(end[MODULES[0]].sum()) for end in ends}) == len(budgets)
    # Of nine steps: the first, third and seventh are the first beyond these budgets.
    assert sorted(trail.shared(budget) for budget in budgets) == [0, 2, 6, 8]


def test_aligned_base_projects_towards_zero(relative_error: Any, model, adapters) -> None:
    """No safety adapter: M_S = 0, and a small μ brings the base back."""
    skill = adapters[:1]
    with pytest.raises(MergeError, match="aligned_base"):
        run(model, skill, mu=1.0)
    kept = run(model, skill, mu=1e9, aligned_base=True)
    gone = run(model, skill, mu=1e-9, aligned_base=True)
    for m in MODULES:
        assert relative_error(kept.adapter.delta(m), skill[0].delta(m)) < 1e-6
        assert gone.adapter.delta(m).norm() < 1e-6 * skill[0].delta(m).norm()


@pytest.mark.parametrize(
    ("equal", "shrinkage", "inputs"),
    [(True, 0.7, "core"), (True, 0.0, "core"), (False, 0.4, "core"), (False, 0.0, "core"), (True, 0.7, "wide")],
)
def test_fisher_merged_utility_adapters(
    build: Any, relative_error: Any, model, adapters, equal, shrinkage, inputs
) -> None:
    """Several experts with their own Fishers: the quadratic's minimiser, against a dense solve."""
    experts = [
        faint_adapter(SHAPES, "one", 11, "utility", 1.0),
        faint_adapter(SHAPES, "two", 33, "utility", 2.0),
        adapters[1],
    ]
    own = {"one": batches(5), "two": batches(6)}
    problem = MergeProblem(experts, build_spaces(experts, dtype=torch.float64), model, HARM, BENIGN, own)
    damping = 0.02
    options = SSTOptions(
        refine=0,
        utility="fisher",
        mu=0.7,
        damping=damping,
        combine="interpolate",
        fisher={"structure": "kronecker"},
        equal_traces=equal,
        output_shrinkage=shrinkage,
        inputs=inputs,
    )
    sst = SSTMerge(problem, options)
    problem = sst.problem
    raw = [
        compute_fim(
            model, problem.spaces, own[a.name], structure="kronecker", point=sst.each[a.name], estimator="log_odds"
        )
        for a in experts[:2]
    ]
    utility = sst.utility
    merged = sst.merged(mu=0.7)
    for m in MODULES:
        n = math.prod(problem.spaces[m].shape)
        dense = []
        for f in raw:
            g, a = f.layers[m].grad_factor, f.layers[m].input_factor
            p = len(g)
            dense.append(
                torch.kron((1 - shrinkage) * g + shrinkage * g.trace() / p * torch.eye(p, dtype=torch.float64), a)
            )
        if equal:
            mean = (dense[0].trace() + dense[1].trace()) / 2
            dense = [f * mean / f.trace() for f in dense]
        terms = [f + damping * f.diagonal().mean() * torch.eye(n, dtype=torch.float64) for f in dense]
        patches = [sst.each[name][m].reshape(-1) for name in ("one", "two")]
        total = terms[0] + 2.0 * terms[1]
        expected = torch.linalg.solve(total, terms[0] @ patches[0] + 2.0 * terms[1] @ patches[1])
        assert relative_error(utility[m].reshape(-1), expected) < 1e-6
        harm = sst.filter.harm[m].dense()
        harm = harm + damping * harm.diagonal().mean() * torch.eye(n, dtype=torch.float64)
        d = sst.patches.safety[m].reshape(-1) - expected
        target = expected + torch.linalg.solve(harm + 0.7 * total, harm @ d)
        assert relative_error(merged[m].reshape(-1), target) < 1e-6
    # Without data of their own both are judged on the common ones.
    common = {"one": sst.fit_benign, "two": sst.fit_benign}
    bare, told = (SSTMerge(replace(problem, adapter_benign=own), options) for own in ({}, common))
    assert all(torch.equal(bare.utility[m], told.utility[m]) for m in MODULES)


def test_wide_inputs_reach_regmeans_merge_and_keep_the_adapters_exact(
    build: Any, relative_error: Any, model, adapters
) -> None:
    experts = [
        faint_adapter(SHAPES, "one", 11, "utility"),
        faint_adapter(SHAPES, "two", 33, "utility", 2.0),
        adapters[1],
    ]
    own = {"one": batches(5), "two": batches(6)}
    problem = MergeProblem(experts, build_spaces(experts, dtype=torch.float64), model, HARM, BENIGN, own)
    sst = SSTMerge(problem, SSTOptions(mu=0.7, calibration_holdout=0.0))
    data = {"harm": HARM, "benign": BENIGN, "adapter_benign": own, "compute_dtype": torch.float64}
    regmean = merge(experts, "regmean", model=model, **data).adapter
    for m in MODULES:
        narrow, wide = problem.spaces[m], sst.problem.spaces[m]
        assert wide.left is narrow.left
        for update in (*experts, regmean):
            factors = update.factors(m)
            lifted = wide.left @ wide.coordinates(factors) @ wide.right.T
            assert relative_error(lifted, factors.b @ factors.a) < 1e-9
        outside = regmean.factors(m).a - regmean.factors(m).a @ narrow.right @ narrow.right.T
        assert outside.norm() > 0.01 * regmean.factors(m).a.norm()
    found = merge(experts, "sst", model=model, mu=0.7, calibration_holdout=0.0, **data)
    expected = sst.merged(mu=0.7)
    for m in MODULES:
        space = sst.problem.spaces[m]
        assert relative_error(found.adapter.delta(m), space.left @ expected[m] @ space.right.T) < 1e-6
        assert found.report.modules[m].rank <= 6


@pytest.mark.parametrize(("columns", "bound"), [(24, 1e-6), (4, 0.2)])
def test_sketched_inputs_reach_regmeans_merge_in_one_pass(
    build: Any, relative_error: Any, monkeypatch: pytest.MonkeyPatch, model, adapters, columns: int, bound: float
) -> None:
    """With as many columns as inputs a sketch is exact; with fewer the spaces still hold most of that merge."""
    experts = [*adapters, faint_adapter(SHAPES, "two", 33, "utility", 2.0)]
    own = {"skill": batches(5), "two": batches(6)}
    problem = MergeProblem(experts, build_spaces(experts, dtype=torch.float64), model, HARM, BENIGN, own)
    data = {"harm": HARM, "benign": BENIGN, "adapter_benign": own, "compute_dtype": torch.float64}
    regmean = merge(experts, "regmean", model=model, **data).adapter
    monkeypatch.setattr("sst_merge.sst.wide_inputs._PASSES", 0)
    monkeypatch.setattr("sst_merge.sst.wide_inputs._COLUMNS", columns)
    spaces = with_wide_inputs(problem, HARM, BENIGN, aligned_base=False).spaces
    for m in MODULES:
        narrow, wide = problem.spaces[m], spaces[m]
        assert wide.left is narrow.left and wide.shape[1] <= sum(narrow.shape)
        for update in experts:
            assert relative_error(update.factors(m).a @ wide.right @ wide.right.T, update.factors(m).a) < 1e-9
        rows = regmean.factors(m).a
        outside = (rows - rows @ wide.right @ wide.right.T).norm() / rows.norm()
        assert outside < bound
        assert outside < 0.5 * (rows - rows @ narrow.right @ narrow.right.T).norm() / rows.norm()


@pytest.mark.parametrize("columns", [24, 4])
def test_sketches_need_the_memory_that_is_estimated(
    columns: int, monkeypatch: pytest.MonkeyPatch, model, adapters
) -> None:
    """Against the tensors that are alive when the last adapter's sketches are there; diagonals are not counted."""
    experts = [*adapters, faint_adapter(SHAPES, "two", 33, "utility", 2.0)]
    own = {"skill": batches(5), "two": batches(6)}
    problem = MergeProblem(experts, build_spaces(experts, dtype=torch.float64), model, HARM, BENIGN, own)
    monkeypatch.setattr(wide_inputs, "_PASSES", 0)
    monkeypatch.setattr(wide_inputs, "_COLUMNS", columns)
    real, alive = wide_inputs.input_sketches, []

    def spied(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        sums = [thing for thing in gc.get_objects() if isinstance(thing, wide_inputs._Sums)]
        kept = [tensor for of in sums for tensor in (of.pulls, of.shares, of.root)]
        kept += [tensor for sketch in found.values() for tensor in (sketch.test, sketch.image)]
        alive.append(sum(tensor.numel() * tensor.element_size() for tensor in kept))
        return found

    monkeypatch.setattr(wide_inputs, "input_sketches", spied)
    with_wide_inputs(problem, HARM, BENIGN, aligned_base=False)
    sizes = {m: (*SHAPES[m], sum(a.factors(m).rank for a in experts if m in a.modules)) for m in MODULES}
    assert len(alive) == 3
    assert wide_inputs_bytes(sizes, 3) == pytest.approx(max(alive), rel=0.15)
    # Where moments fit into the passes that they may take, they are collected instead.
    monkeypatch.setattr(wide_inputs, "_PASSES", 3)
    assert wide_inputs_bytes(sizes, 3) == 24 * sum(d_in**2 for _, d_in, _ in sizes.values())


def test_wide_inputs_belong_to_the_fisher_utility() -> None:
    with pytest.raises(ValueError, match="inputs: wide belongs to utility: fisher"):
        SSTOptions(inputs="wide", utility="sum")


def test_vila_region_leaves_the_rest_at_the_utility_patch(model, adapters) -> None:
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    options = SSTOptions(mu=0.1, vila={"keep_layers": 0.34, "keep_directions": 0.5}, fisher={"structure": "block"})
    sst = SSTMerge(problem, options)
    change = sst.change(mu=0.1)
    kept = sst.region.kept
    assert kept is not None and len(kept) == 2
    assert set(sst.fishers[0].layers) == set(kept)
    for m in MODULES:
        if m not in kept:
            assert float(change[m].norm()) == 0.0
        else:
            rows, columns = kept[m]
            inside = torch.zeros_like(change[m], dtype=torch.bool)
            inside[rows[:, None], columns[None, :]] = True
            assert float(change[m][inside].norm()) > 0
            assert float(change[m][~inside].norm()) == 0.0
    assert sst.held_out() is not None


def test_region_fisher_equals_the_block_of_the_full_fisher(relative_error: Any, model, adapters) -> None:
    """Collecting in the region at a point outside its span is the full Fisher's sub-block."""
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    part = SSTMerge(problem, SSTOptions(mu=1.0, vila={"keep_directions": 0.5}, fisher={"structure": "block"}))
    full = SSTMerge(problem, SSTOptions(mu=1.0, fisher={"structure": "block"}))
    assert part.region.kept is not None
    for m, (rows, columns) in part.region.kept.items():
        q = problem.spaces[m].shape[1]
        index = (rows[:, None] * q + columns[None, :]).reshape(-1)
        expected = full.fishers[1].layers[m].dense()[index][:, index]
        assert relative_error(part.fishers[1].layers[m].dense(), expected) < 1e-9


@pytest.mark.parametrize("law", [(0.3, 2.0), (4.0, 3.5)])
@pytest.mark.parametrize("budget", [1e-4, 0.02, 0.2])
def test_share_within_budget_inverts_a_power_law(law, budget) -> None:
    """Divergence a·t^b crosses the budget at (budget / a)^(1/b), wherever that lies between 0.05 and 1."""
    a, b = law
    shares = (0.125, 0.25, 0.5, 1.0)
    found = share_within_budget(shares, [a * t**b for t in shares], budget)
    expected = (budget / a) ** (1 / b)
    if expected >= shares[0]:
        assert found == pytest.approx(min(expected, 1.0), rel=1e-6)
    else:
        assert 0.05 <= found < shares[0]


def test_trusted_point_stays_within_its_budget(build: Any, model, adapters) -> None:
    """The divergence at the trusted point, of a model with ΔW added by hand, is the trust budget."""
    budget = 0.01
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN)
    sst = SSTMerge(problem, SSTOptions(mu=1.0, inputs="core", fisher={"trust_budget": budget}))
    assert 0.05 < sst.trust_region_share < 1.0
    safe = adapters[1].with_(weight=sst.trust_region_share)
    skilled = build.add_deltas(model, adapters[0])
    moved = build.add_deltas(
        skilled,
        Adapter.from_factors(
            {m: LoraFactors(sst.trust_region_share * safe.factors(m).b, safe.factors(m).a) for m in MODULES},
            name="part",
        ),
    )
    total, tokens = 0.0, 0
    for b in sst.held_benign:
        answers = b.labels[:, 1:] >= 0
        p, q = (torch.log_softmax(x(input_ids=b.input_ids).logits[:, :-1], -1)[answers] for x in (skilled, moved))
        total, tokens = total + float((p.exp() * (p - q)).sum().detach()), tokens + len(p)
    assert total / tokens == pytest.approx(budget, rel=0.25)


def test_identical_data_give_held_out_quotients_near_one(model, adapters) -> None:
    """Harm and benign drawn alike: the report must not claim a safety direction."""
    result = merge(
        adapters,
        "sst",
        model=model,
        harm=batches(7, n=400, size=40),
        benign=batches(8, n=400, size=40),
        mu=1.0,
        calibration_holdout=0.5,
        fisher={"structure": "block"},
    )
    held = result.report.method_report["held_out_quotients"]
    assert held["in_sample_median"] > held["held_out_median"]
    assert 0.6 < held["held_out_median"] < 1.6


def test_front_door_equals_the_method(model, adapters) -> None:
    one = merge_lora_adapters(model, adapters, HARM, BENIGN, mu=0.4, seed=2)
    two = merge(adapters, "sst", model=model, harm=HARM, benign=BENIGN, mu=0.4, seed=2)
    for m in MODULES:
        torch.testing.assert_close(one.adapter.delta(m), two.adapter.delta(m), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 1.0, "tax_budget": 0.1}, "either mu or tax_budget"),
        ({"mu": -1.0}, "greater than 0"),
        ({"filter": {"hard": 0}}, "greater than or equal to 1"),
        ({"filter": {"hard": 3}, "mu": 1.0}, "mu belongs to the soft filter"),
        ({"fisher": {"structure": "dense"}}, "structure"),
        ({"aligned_base": True, "combine": "add"}, "nothing to add"),
        ({"muu": 1.0}, "unknown option 'muu'"),
    ],
)
def test_bad_options_name_the_option_and_the_method(model, adapters, options, message) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        run(model, adapters, **options)
    assert "sst" in str(caught.value)


def test_missing_data_and_roles_are_refused(model, adapters) -> None:
    with pytest.raises((DataError, MergeError), match=r"data|harm"):
        merge(adapters, "sst", model=model)
    with pytest.raises(MergeError, match="utility"):
        run(model, adapters[1:], mu=1.0)
    with pytest.raises(MergeError, match="aligned_base: true means"):
        run(model, adapters, mu=1.0, aligned_base=True)
    with pytest.raises(DataError, match="at least 2"):
        split_batches([Batch(*(torch.ones(1, 3, dtype=torch.int64) for _ in range(3)))], 0.5, 0)
