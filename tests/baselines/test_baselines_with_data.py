"""Merge methods that read data or base weights, against their definitions computed densely in float64."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sst_merge import merge
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import BaseModelError, MergeError, OptionError
from sst_merge.lora_utils import Adapter, BaseWeights, Conv1DKind, EmbeddingKind, LoraFactors
from sst_merge.merging import MergeResult

VOCABULARY = 37  # token ids of ``build.tiny_model``
SHAPES = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
    "model.layers.1.self_attn.v_proj": (8, 16),
}
MODULES = tuple(SHAPES)
TOKENS = 7

Deltas = dict[str, Tensor]


def batches(seed: int, n: int = 8, *, padded: bool = False) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n // 4):
        ids = torch.randint(0, VOCABULARY, (4, TOKENS), generator=generator)
        labels, mask = ids.clone(), torch.ones_like(ids)
        labels[:, :3] = -100
        if padded:
            mask[0, -2:], labels[0, -2:] = 0, -100
        found.append(Batch(ids, mask, labels))
    return found


HARM, BENIGN, OWN = batches(1), batches(2, padded=True), batches(3)


def scaled_adapter(name: str, seed: int, role: str = "utility", weight: float = 1.0, scale: float = 0.1) -> Adapter:
    factors = {}
    for index, (module, (d_out, d_in)) in enumerate(SHAPES.items()):
        generator = torch.Generator().manual_seed(seed + 1000 * index)
        b = torch.randn(d_out, 2, generator=generator, dtype=torch.float64)
        a = torch.randn(2, d_in, generator=generator, dtype=torch.float64)
        factors[module] = LoraFactors(b * scale, a)
    return Adapter.from_factors(factors, name=name, role=role, weight=weight)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(build: Any) -> torch.nn.Module:
    return build.tiny_model("llama", dtype=torch.float64)


SKILL, OTHER, SAFE = scaled_adapter("skill", 11), scaled_adapter("other", 33), scaled_adapter("safe", 22, "safety")


def run(method: str, adapters: list[Adapter], model: torch.nn.Module | None = None, **more: object) -> MergeResult:
    data = {} if model is None else {"model": model, "harm": HARM, "benign": BENIGN}
    return merge(adapters, method, compute_dtype=torch.float64, **{**data, **more})  # type: ignore[arg-type]


def delta(result: MergeResult | Adapter, module: str) -> Tensor:
    return (result if isinstance(result, Adapter) else result.adapter).delta(module, dtype=torch.float64)


def assert_deltas(found: MergeResult, expected: Deltas, tolerance: float = 1e-8) -> None:
    assert set(found.adapter.modules) == set(expected)
    for module, wanted in expected.items():
        assert (delta(found, module) - wanted).norm() < tolerance * wanted.norm(), module


def core_bases(adapters: list[Adapter], module: str) -> tuple[Tensor, Tensor]:
    """U, V of the union of the updates, rotated to the principal directions, by dense SVDs."""
    deltas = [delta(a, module) for a in adapters]
    rank = sum(a.rank(module) for a in adapters)
    u = torch.linalg.svd(torch.cat(deltas, 1), full_matrices=False)[0][:, :rank]
    v = torch.linalg.svd(torch.cat(deltas, 0), full_matrices=False)[2][:rank].T
    return u, v


def weight_gradients(build: Any, model: torch.nn.Module, point: Adapter | None, data: list[Batch]) -> dict[str, Tensor]:
    """Dense gradient of every sample's log-likelihood, one sample at a time by autograd."""
    moved = build.add_deltas(model, point) if point is not None else model
    rows: dict[str, list[Tensor]] = {m: [] for m in MODULES}
    for batch in data:
        for i in range(len(batch)):
            length = int(batch.attention_mask[i].sum())
            weights = [moved.get_submodule(m).weight for m in MODULES]
            logp = torch.log_softmax(moved(input_ids=batch.input_ids[i : i + 1, :length]).logits[0, :-1], -1)
            labels = batch.labels[i, 1:length]
            keep = labels >= 0
            total = logp[keep].gather(1, labels[keep][:, None]).sum()
            for m, gradient in zip(MODULES, torch.autograd.grad(total, weights), strict=True):
                rows[m].append(gradient)
    return {m: torch.stack(r) for m, r in rows.items()}


def inputs(
    build: Any,
    model: torch.nn.Module,
    point: Adapter | None,
    data: list[Batch],
    modules: tuple[str, ...] = MODULES,
) -> dict[str, Tensor]:
    """Every unpadded token's input to every module, one sample at a time."""
    moved = build.add_deltas(model, point) if point is not None else model
    seen: dict[str, list[Tensor]] = {m: [] for m in modules}
    handles = [
        moved.get_submodule(m).register_forward_hook(lambda _, args, __, m=m: seen[m].append(args[0][0]))
        for m in modules
    ]
    with torch.no_grad():
        for batch in data:
            for i in range(len(batch)):
                moved(input_ids=batch.input_ids[i : i + 1, : int(batch.attention_mask[i].sum())])
    for handle in handles:
        handle.remove()
    return {m: torch.cat(rows) for m, rows in seen.items()}


# --- Fisher merging -------------------------------------------------------------------------------------------------


def test_fisher_merging_diagonal_is_the_weighted_average_of_the_definition(build: Any, model) -> None:
    damping = 0.05
    adapters = [SKILL.with_(weight=0.7), OTHER.with_(weight=1.5)]
    found = run("fisher_merging", adapters, model, damping=damping, adapter_benign={"skill": OWN}, strength=2.0)
    gradients = [weight_gradients(build, model, SKILL, OWN), weight_gradients(build, model, OTHER, BENIGN)]
    expected = {}
    for m in MODULES:
        u, v = core_bases(adapters, m)
        fishers = [torch.einsum("op,noi,iq->npq", u, g[m], v).square().mean(0) for g in gradients]
        floor = damping * torch.stack(fishers).mean()
        shares = [a.weight * (f + floor) for a, f in zip(adapters, fishers, strict=True)]
        top = sum(s * (u.T @ delta(a, m) @ v) for s, a in zip(shares, adapters, strict=True))
        expected[m] = 2.0 * u @ (top / sum(shares)) @ v.T
    assert_deltas(found, expected, 1e-5)
    assert found.report.method_report["fishers"]["skill"]["data"] == "own"
    assert any("'other' has no benign data of its own" in w for w in found.report.warnings)
    assert not any("'skill'" in w and "benign data of its own" in w for w in found.report.warnings)


def test_fisher_merging_kronecker_solves_the_least_squares_problem(build: Any, model) -> None:
    """The normal equations with K-FAC factors from dense gradients per token, solved densely."""
    damping, adapters = 0.1, [SKILL, OTHER.with_(weight=-0.5)]
    turned = build.random_adapter(SHAPES, name="turned", rank=2, seed=33)
    turned = Adapter.from_factors(
        {m: LoraFactors(-0.1 * turned.factors(m).b, turned.factors(m).a) for m in MODULES}, name="turned"
    )
    found = run(
        "fisher_merging",
        adapters,
        model,
        structure="kronecker",
        damping=damping,
        adapter_benign={"skill": OWN, "other": OWN},
    )
    moments = [(token_factors(build, model, a, OWN), a, w) for a, w in ((SKILL, 1.0), (turned, 0.5))]
    expected = {}
    for m in MODULES:
        u, v = core_bases([SKILL, OTHER], m)
        system, target = torch.zeros(16, 16).double(), torch.zeros(16).double()
        for factors, adapter, weight in moments:
            grads, ins = factors[m]
            fisher = torch.kron(u.T @ grads @ u, v.T @ ins @ v)
            fisher = weight * (fisher + damping * fisher.diagonal().mean() * torch.eye(16))
            system += fisher
            target += fisher @ (u.T @ delta(adapter, m) @ v).flatten()
        expected[m] = u @ torch.linalg.solve(system, target).reshape(4, 4) @ v.T
    assert_deltas(found, expected, 1e-5)


def token_factors(
    build: Any, model: torch.nn.Module, point: Adapter, data: list[Batch]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Σδδᵀ/N and Σxxᵀ/T per module, one sample at a time."""
    moved = build.add_deltas(model, point)
    grads = {m: torch.zeros(SHAPES[m][0], SHAPES[m][0]).double() for m in MODULES}
    ins = {m: torch.zeros(SHAPES[m][1], SHAPES[m][1]).double() for m in MODULES}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(m: str):
        return lambda _, args, output: seen.__setitem__(m, (args[0], output))

    handles = [moved.get_submodule(m).register_forward_hook(keep(m)) for m in MODULES]
    samples = tokens = 0
    for batch in data:
        for i in range(len(batch)):
            logp = torch.log_softmax(moved(input_ids=batch.input_ids[i : i + 1]).logits[0, :-1], -1)
            labels = batch.labels[i, 1:]
            total = logp[labels >= 0].gather(1, labels[labels >= 0][:, None]).sum()
            outputs = torch.autograd.grad(total, [seen[m][1] for m in MODULES])
            for m, d in zip(MODULES, outputs, strict=True):
                grads[m] += d[0].T @ d[0]
                x = seen[m][0][0].detach()
                ins[m] += x.T @ x
            samples, tokens = samples + 1, tokens + TOKENS
    for handle in handles:
        handle.remove()
    return {m: (grads[m] / samples, ins[m] / tokens) for m in MODULES}


def test_fisher_merging_with_much_damping_is_the_average(model) -> None:
    found = run("fisher_merging", [SKILL, OTHER.with_(weight=3.0)], model, damping=1e9)
    assert_deltas(found, {m: 0.25 * delta(SKILL, m) + 0.75 * delta(OTHER, m) for m in MODULES}, 1e-6)


@pytest.mark.parametrize("method", ["fisher_merging", "regmean", "regmean_plusplus", "lora_soups", "prodistill"])
def test_averages_refuse_weights_that_are_all_zero(method, model) -> None:
    with pytest.raises(MergeError, match=method):
        run(method, [SKILL.with_(weight=0.0), OTHER.with_(weight=0.0)], model)


# --- RegMean and the benign null space ------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gib", [2.0, 1e-9], ids=["one group", "a group per module"])
def test_regmean_is_the_dense_definition(build: Any, model, memory_gib) -> None:
    a, ridge = 0.8, 1e-6
    adapters = [SKILL.with_(weight=0.7), OTHER.with_(weight=-1.5)]
    minus = Adapter.from_factors(
        {m: LoraFactors(-OTHER.factors(m).b, OTHER.factors(m).a) for m in MODULES}, name="minus"
    )
    found = run(
        "regmean", adapters, model, off_diagonal=a, damping=ridge, memory_gib=memory_gib, adapter_benign={"skill": OWN}
    )
    seen = [(inputs(build, model, SKILL, OWN), SKILL, 0.7), (inputs(build, model, minus, BENIGN), minus, 1.5)]
    expected = {}
    for m in MODULES:
        grams = []
        for rows, _, weight in seen:
            gram = rows[m].T @ rows[m] / len(rows[m])
            grams.append(weight * (a * gram + (1 - a) * torch.diag(gram.diagonal())))
        floor = ridge * sum(grams).diagonal().mean() / 2.2
        eye = torch.eye(SHAPES[m][1]).double()
        padded = [g + w * floor * eye for g, (_, _, w) in zip(grams, seen, strict=True)]
        top = sum(delta(adapter, m) @ g for g, (_, adapter, _) in zip(padded, seen, strict=True))
        expected[m] = top @ torch.linalg.inv(sum(padded))
    assert_deltas(found, expected, 1e-5)
    assert found.report.method_report["passes"] == (2 if memory_gib > 1 else 6)
    assert max(f.rank for f in found.report.modules.values()) <= 4


def test_regmean_on_the_same_inputs_is_the_average(relative_error: Any, model) -> None:
    """Layer 0's query projection sees the same inputs in both models, because nothing before it is adapted."""
    found = run("regmean", [SKILL, OTHER], model)
    module = MODULES[0]
    assert relative_error(delta(found, module), (delta(SKILL, module) + delta(OTHER, module)) / 2) < 1e-8


BLOCKS = (("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"), ("model.layers.1.self_attn.v_proj",))


def mixed(*parts: tuple[Adapter | dict[str, Tensor], tuple[str, ...]]) -> Adapter:
    """Modules of several adapters, or of dense updates, as one adapter."""
    factors = {}
    for source, modules in parts:
        for m in modules:
            d = source[m] if isinstance(source, dict) else delta(source, m)
            factors[m] = LoraFactors(d, torch.eye(d.shape[1]).double())
    return Adapter.from_factors(factors, name="mixed")


def blockwise(
    build: Any, model: torch.nn.Module, sources: list[tuple[Adapter, float, list[Batch]]], blocks: Any, a: float
) -> Deltas:
    """RegMean++ with whole dense models: merged blocks below, an adapter's own modules in the block at hand."""
    found: Deltas = {}
    for block in blocks:
        points = [mixed((found, tuple(found)), (adapter, block)) for adapter, _, _ in sources]
        seen = [inputs(build, model, p, data, block) for p, (_, _, data) in zip(points, sources, strict=True)]
        total = sum(weight for _, weight, _ in sources)
        for m in block:
            grams = []
            for rows, (_, weight, _) in zip(seen, sources, strict=True):
                gram = rows[m].T @ rows[m] / len(rows[m])
                grams.append(weight * (a * gram + (1 - a) * torch.diag(gram.diagonal())))
            floor = 1e-6 * sum(grams).diagonal().mean() / total
            padded = [g + w * floor * torch.eye(len(g)).double() for g, (_, w, _) in zip(grams, sources, strict=True)]
            top = sum(delta(adapter, m) @ g for g, (adapter, _, _) in zip(padded, sources, strict=True))
            found[m] = top @ torch.linalg.inv(sum(padded))
    return found


@pytest.mark.parametrize("memory_gib", [2.0, 1e-9], ids=["one group", "a group per module"])
def test_regmean_plusplus_sees_the_merged_blocks_below(build: Any, model, memory_gib) -> None:
    own = {"skill": OWN, "other": BENIGN}
    adapters = [SKILL.with_(weight=0.7), OTHER.with_(weight=1.5)]
    options = {"off_diagonal": 0.8, "memory_gib": memory_gib, "adapter_benign": own}
    found = run("regmean_plusplus", adapters, model, strength=2.0, **options)
    expected = blockwise(build, model, [(SKILL, 0.7, OWN), (OTHER, 1.5, BENIGN)], BLOCKS, 0.8)
    assert_deltas(found, {m: 2.0 * d for m, d in expected.items()}, 1e-5)
    # Behind the first block only: eight samples of seven tokens each, sixteen numbers of eight bytes a token.
    assert found.report.method_report["blocks"] == 2
    assert found.report.method_report["hidden_states_bytes"] == 2 * 8 * TOKENS * 16 * 8
    assert not any("forward" in vars(part) for part in model.modules())
    regmean = run("regmean", adapters, model, strength=2.0, **options)
    assert (delta(found, MODULES[0]) - delta(regmean, MODULES[0])).norm() < 1e-8
    assert (delta(found, MODULES[2]) - delta(regmean, MODULES[2])).norm() > 1e-3


def test_regmean_plusplus_before_and_after_the_blocks(build: Any, model) -> None:
    """An embedding is averaged before all else, the output layer sees the merged blocks; block 0 is not adapted."""
    shapes = {"model.layers.1.self_attn.v_proj": (8, 16), "lm_head": (VOCABULARY, 16)}
    adapters = [build.random_adapter(shapes, name=name, rank=2, seed=seed) for name, seed in (("a", 5), ("b", 6))]
    generator = torch.Generator().manual_seed(7)
    embeddings = [
        LoraFactors(
            *(0.1 * torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((16, 2), (2, VOCABULARY))),
            EmbeddingKind(),
        )
        for _ in adapters
    ]
    both = [
        Adapter.from_factors({"model.embed_tokens": e, **{m: a.factors(m) for m in shapes}}, name=a.name)
        for a, e in zip(adapters, embeddings, strict=True)
    ]
    found = run("regmean_plusplus", both, model, adapter_benign={"a": OWN, "b": BENIGN})
    average = sum(e.b @ e.a for e in embeddings) / 2
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.get_submodule("model.embed_tokens").weight += average.T
    expected = blockwise(
        build, moved, [(a, 1.0, d) for a, d in zip(adapters, (OWN, BENIGN), strict=True)], [(m,) for m in shapes], 0.9
    )
    assert_deltas(found, {"model.embed_tokens": average, **expected}, 1e-5)


def test_regmean_plusplus_refuses_a_block_that_is_computed_twice(build: Any) -> None:
    shared = build.tiny_model("llama", dtype=torch.float64)
    shared.model.layers[1] = shared.model.layers[0]
    with pytest.raises(
        MergeError, match=r"computes 'model\.layers\.0' 2 times; expected blocks that are computed once"
    ):
        run("regmean_plusplus", [SKILL, OTHER], shared)


def features(model: torch.nn.Module, deltas: Deltas, block: str, batch: Batch) -> Tensor:
    """What a block gives out for all tokens of a batch, one sample at a time; dense weights, differentiable."""
    weights = {f"{m}.weight": model.get_submodule(m).weight.detach() + d for m, d in deltas.items()}
    seen: list[Tensor] = []
    handle = model.get_submodule(block).register_forward_hook(
        lambda _, __, output: seen.append((output if isinstance(output, Tensor) else output[0])[0])
    )
    for i in range(len(batch)):
        tokens = {"input_ids": batch.input_ids[i : i + 1, : int(batch.attention_mask[i].sum())]}
        torch.func.functional_call(model, weights, kwargs=tokens)
    handle.remove()
    return torch.cat(seen)


def imitated(
    model: torch.nn.Module,
    experts: list[tuple[Deltas, float, list[Batch]]],
    bases: dict[str, tuple[Tensor, Tensor]],
    below: Deltas,
    steps: int,
    rate: float,
) -> tuple[Deltas, list[list[float]]]:
    """ProDistill with whole dense models, the merge's and the experts': ΔW = U (Σ C ∘ UᵀΔWᵢV) Vᵀ, Adam on all C."""
    merged, objectives = dict(below), []
    for block, modules in zip(("model.layers.0", "model.layers.1"), BLOCKS, strict=True):
        chosen = [m for m in modules if m in bases]
        if not chosen:
            continue
        shares = [weight / sum(w for _, w, _ in experts) for _, weight, _ in experts]
        cores = {m: torch.stack([bases[m][0].T @ d[m] @ bases[m][1] for d, _, _ in experts]) for m in chosen}
        free = {m: torch.ones_like(c) * torch.tensor(shares).double()[:, None, None] for m, c in cores.items()}
        optimizer = torch.optim.Adam([c.requires_grad_(True) for c in free.values()], lr=rate)
        values = []
        for step in range(steps):
            moved = {m: bases[m][0] @ (free[m] * cores[m]).sum(0) @ bases[m][1].T for m in chosen}
            loss = torch.zeros(()).double()
            for (deltas, _, data), share in zip(experts, shares, strict=True):
                batch = data[step % len(data)]
                apart = features(model, merged | moved, block, batch) - features(model, deltas, block, batch).detach()
                loss = loss + share * apart.square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        objectives.append([values[0], values[-1]])
        merged |= {m: (bases[m][0] @ (free[m] * cores[m]).sum(0) @ bases[m][1].T).detach() for m in chosen}
    return merged, objectives


def test_prodistill_imitates_the_experts_features_block_by_block(model) -> None:
    adapters = [SKILL.with_(weight=1.5), OTHER.with_(weight=-0.5)]
    found = run("prodistill", adapters, model, steps=3, learning_rate=0.3, strength=2.0, adapter_benign={"skill": OWN})
    experts = [
        ({m: delta(SKILL, m) for m in MODULES}, 1.5, OWN),
        ({m: -delta(OTHER, m) for m in MODULES}, 0.5, BENIGN),
    ]
    bases = {m: core_bases(adapters, m) for m in MODULES}
    expected, objectives = imitated(model, experts, bases, {}, 3, 0.3)
    assert_deltas(found, {m: 2.0 * d for m, d in expected.items()}, 1e-6)
    for m in MODULES:
        average = 0.75 * delta(SKILL, m) - 0.25 * delta(OTHER, m)
        assert (expected[m] - average).norm() > 0.05 * average.norm()
    report = found.report.method_report
    assert list(report["objective"].values()) == [pytest.approx(pair) for pair in objectives]
    # Merge and experts behind a block: two batches of two adapters, four samples of seven tokens, sixteen numbers.
    assert report["hidden_states_bytes"] == 2 * 2 * 2 * 4 * TOKENS * 16 * 8
    assert not any("forward" in vars(part) for part in model.modules())


def test_prodistill_averages_what_is_outside_of_the_blocks(build: Any, model) -> None:
    """Experts see their own embedding, the merge sees the average; the output layer is averaged; block 0 is free."""
    shapes = {"model.layers.1.self_attn.v_proj": (8, 16), "lm_head": (VOCABULARY, 16)}
    plain = [build.random_adapter(shapes, name=name, rank=2, seed=seed) for name, seed in (("a", 5), ("b", 6))]
    embeddings = [
        LoraFactors(0.1 * f.b[:16], f.a, EmbeddingKind())
        for f in (build.random_factors(16, VOCABULARY, 2, seed=seed) for seed in (7, 8))
    ]
    both = [
        Adapter.from_factors({"model.embed_tokens": e, **{m: a.factors(m) for m in shapes}}, name=a.name)
        for a, e in zip(plain, embeddings, strict=True)
    ]
    found = run("prodistill", both, model, steps=3, adapter_benign={"a": OWN, "b": BENIGN})
    parts = [{"model.embed_tokens": (e.b @ e.a).T} for e in embeddings]
    average = (parts[0]["model.embed_tokens"] + parts[1]["model.embed_tokens"]) / 2
    (block,) = BLOCKS[1]
    experts = [
        ({**part, block: delta(a, block)}, 1.0, data) for part, a, data in zip(parts, plain, (OWN, BENIGN), strict=True)
    ]
    below = {"model.embed_tokens": average}
    expected, _ = imitated(model, experts, {block: core_bases(plain, block)}, below, 3, 0.1)
    head = (delta(plain[0], "lm_head") + delta(plain[1], "lm_head")) / 2
    assert_deltas(found, {"model.embed_tokens": average.T, block: expected[block], "lm_head": head}, 1e-6)
    assert list(found.report.method_report["objective"]) == ["model.layers.1"]
    heads = [Adapter.from_factors({"lm_head": a.factors("lm_head")}, name=a.name) for a in plain]
    alone = run("prodistill", heads, model)
    assert_deltas(alone, {"lm_head": head})
    assert any("no merged module lies in a transformer block" in warning for warning in alone.report.warnings)


@pytest.mark.parametrize("which", ["full", "core"])
def test_benign_null_space_is_the_dense_projection(build: Any, model, which) -> None:
    threshold, strength = 0.02, 0.6
    found = run("benign_null_space", [SKILL, SAFE], model, threshold=threshold, strength=strength, inputs=which)
    seen = inputs(build, model, SKILL, BENIGN)
    expected, kept = {}, {}
    for m in MODULES:
        gram = seen[m].T @ seen[m] / len(seen[m])
        basis = torch.eye(SHAPES[m][1]).double() if which == "full" else core_bases([SKILL, SAFE], m)[1]
        values, vectors = torch.linalg.eigh(basis.T @ gram @ basis)
        null = basis @ vectors[:, values < threshold * values.max()]
        patch = delta(SAFE, m) @ null @ null.T
        kept[m] = float(patch.norm() / delta(SAFE, m).norm())
        expected[m] = delta(SKILL, m) + strength * patch
    assert_deltas(found, expected, 1e-5)
    assert found.report.method_report["kept_norm"] == pytest.approx(kept, abs=1e-5)
    assert max(kept.values()) > 0.05 or which == "core"


def test_benign_null_space_limits(model) -> None:
    nothing = run("benign_null_space", [SKILL, SAFE], model, threshold=0.0)
    assert_deltas(nothing, {m: delta(SKILL, m) for m in MODULES}, 1e-6)
    off = run("benign_null_space", [SKILL, SAFE], model, strength=0.0)
    assert_deltas(off, {m: delta(SKILL, m) for m in MODULES})


# --- AlignGuard-LoRA ------------------------------------------------------------------------------------------------


def alignguard_parts(
    build: Any, model: torch.nn.Module, share: float
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """U, V, the dense projector, F and H in the core of SKILL and SAFE."""
    both = Adapter.from_factors(
        {m: LoraFactors(delta(SKILL, m) + delta(SAFE, m), torch.eye(SHAPES[m][1]).double()) for m in MODULES},
        name="sum",
    )
    harm, benign = weight_gradients(build, model, SAFE, HARM), weight_gradients(build, model, both, BENIGN)
    parts = {}
    for m in MODULES:
        u, v = core_bases([SKILL, SAFE], m)
        rows = [torch.einsum("op,noi,iq->npq", u, g[m], v).reshape(len(g[m]), -1) for g in (harm, benign)]
        f, h = (r.T @ r / len(r) for r in rows)
        values, vectors = torch.linalg.eigh(f)
        values, vectors = values.flip(0), vectors.flip(1)
        count = next(i + 1 for i in range(16) if values[: i + 1].sum() >= (share - 1e-12) * values.sum())
        parts[m] = (u, v, vectors[:, :count] @ vectors[:, :count].T, f, h)
    return parts


def test_alignguard_removes_the_top_directions_of_the_safety_fisher(build: Any, model) -> None:
    found = run(
        "alignguard_lora", [SKILL, SAFE], model, structure="block", share=0.8, strength=0.7, safety_strength=1.3
    )
    expected = {}
    for m, (u, v, projector, _, _) in alignguard_parts(build, model, 0.8).items():
        core = (u.T @ delta(SKILL, m) @ v).flatten()
        expected[m] = u @ (core - 0.7 * projector @ core).reshape(4, 4) @ v.T + 1.3 * delta(SAFE, m)
        assert float((projector @ core).norm()) > 1e-3 * float(core.norm())
    assert_deltas(found, expected, 1e-5)


def test_alignguard_penalty_solves_its_normal_equations(build: Any, model) -> None:
    la, lt, lnc, beta, tau, t = 0.5, 0.3, 0.7, 3.0, 0.02, 2.0
    found = run(
        "alignguard_lora",
        [SKILL, SAFE],
        model,
        structure="block",
        mode="penalty",
        share=0.8,
        strength=t,
        lambda_a=la,
        lambda_t=lt,
        lambda_nc=lnc,
        beta=beta,
        tau=tau,
    )
    expected = {}
    for m, (u, v, p, f, h) in alignguard_parts(build, model, 0.8).items():
        # The entries of η and c are those in the principal directions, whose signs do not matter.
        start = (u.T @ delta(SKILL, m) @ v).flatten()
        rest = torch.eye(16).double() - p
        task = (rest @ start).abs()
        cost = (1 + beta * torch.sigmoid(start.abs() - tau)) * task / task.max()
        scaled_f, scaled_h = f / f.diagonal().mean(), h / h.diagonal().mean()
        penalty = la * p @ scaled_f @ p + lt * rest @ scaled_h @ rest + lnc * p @ torch.diag(cost) @ p
        system = torch.eye(16) + t * penalty
        expected[m] = u @ torch.linalg.solve(system, start).reshape(4, 4) @ v.T + delta(SAFE, m)
    assert_deltas(found, expected, 1e-5)


@pytest.mark.parametrize("structure", ["block", "kronecker"])
def test_alignguard_limits(model, structure) -> None:
    plain = {m: delta(SKILL, m) + delta(SAFE, m) for m in MODULES}
    for options in ({"strength": 0.0}, {"m": 0}, {"share": 0.0}, {"strength": 0.0, "mode": "penalty"}):
        assert_deltas(run("alignguard_lora", [SKILL, SAFE], model, structure=structure, **options), plain)
    everything = run("alignguard_lora", [SKILL, SAFE], model, structure=structure, m=10_000)
    if structure == "kronecker":  # of full rank here, so that nothing of the skill is left
        assert_deltas(everything, {m: delta(SAFE, m) for m in MODULES}, 1e-6)


def test_alignguard_on_an_aligned_base_needs_the_word(model) -> None:
    with pytest.raises(MergeError, match="aligned_base: true"):
        run("alignguard_lora", [SKILL, OTHER], model)
    found = run("alignguard_lora", [SKILL, OTHER], model, aligned_base=True, m=0)
    assert_deltas(found, {m: delta(SKILL, m) + delta(OTHER, m) for m in MODULES})


# --- AlignMerge -----------------------------------------------------------------------------------------------------


def test_align_merge_is_the_minimum_of_its_objective(build: Any, model) -> None:
    held = 3.0
    heavy = SAFE.with_(weight=0.5)  # the anchor is the safety adapter itself, whatever its weight
    found = run("align_merge", [SKILL, heavy], model, structure="block", share=0.8, strength=held)
    for m, (u, v, p, g, _) in alignguard_parts(build, model, 0.8).items():
        moved = (u.T @ (delta(found, m) - delta(SAFE, m)) @ v).flatten()
        expert = (u.T @ (delta(SKILL, m) - delta(SAFE, m)) @ v).flatten()
        # Half of the gradient of Σ λᵢ ‖δ − Δᵢ‖²_G + λ_A ‖P δ‖²_G with the anchor as an expert at 0.
        gradient = 2 / 3 * g @ (moved - expert) + 1 / 3 * g @ moved + held * p @ g @ p @ moved
        assert float(gradient.norm()) <= 1e-6 * float((g @ expert).norm())
        assert float((p @ expert).norm()) > 1e-3 * float(expert.norm())
        # What G does not see is the average.
        values, vectors = torch.linalg.eigh(g)
        unseen = vectors[:, values < 1e-12 * values[-1]]
        assert torch.allclose(unseen.T @ moved, 2 / 3 * unseen.T @ expert, atol=1e-7)


@pytest.mark.parametrize("structure", ["block", "kronecker"])
def test_align_merge_limits(model, structure) -> None:
    average = {m: 0.5 * delta(SKILL, m) + 0.5 * delta(SAFE, m) for m in MODULES}
    for options in ({"strength": 0.0}, {"m": 0}, {"share": 0.0}):
        assert_deltas(run("align_merge", [SKILL, SAFE], model, structure=structure, **options), average)
    if structure == "kronecker":  # of full rank here: nothing moves away from the anchor
        anchored = run("align_merge", [SKILL, SAFE], model, structure=structure, m=10_000, strength=1e9)
        assert_deltas(anchored, {m: delta(SAFE, m) for m in MODULES}, 1e-6)


def test_align_merge_on_an_aligned_base_needs_the_word(model) -> None:
    with pytest.raises(MergeError, match="aligned_base: true"):
        run("align_merge", [SKILL, OTHER], model)
    with pytest.raises(MergeError, match="expected one anchor"):
        run("align_merge", [SKILL, SAFE], model, aligned_base=True)
    found = run("align_merge", [SKILL, OTHER], model, aligned_base=True, m=0)
    assert_deltas(found, {m: (delta(SKILL, m) + delta(OTHER, m)) / 2 for m in MODULES})
    with pytest.raises(MergeError, match="weight above 0"):
        run("align_merge", [SKILL, SAFE.with_(weight=0.0)], model)


# --- weights of two bases -------------------------------------------------------------------------------------------


def base_folder(folder: Path, seed: int, *, shards: bool = False, prefix: str = "", scale: float = 1.0) -> Path:
    """A folder of weights, as transformers writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{prefix}{m}.weight": scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        for m, shape in SHAPES.items()
    }
    folder.mkdir(parents=True)
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = {}
    for number, (key, tensor) in enumerate(tensors.items()):
        names[key] = f"model-{number}.safetensors"
        save_file({key: tensor}, folder / names[key])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseWeights]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "base_weights": BaseWeights.load(base_folder(root / "plain", 1)),
        "aligned_weights": BaseWeights.load(base_folder(root / "aligned", 2, shards=True)),
    }


def difference(bases: dict[str, BaseWeights], module: str) -> Tensor:
    aligned, plain = (bases[k].weight(module, dtype=torch.float64) for k in ("aligned_weights", "base_weights"))
    return aligned - plain


def projected(v: Tensor, update: Tensor) -> tuple[Tensor, float]:
    """C ΔW and its cosine with ΔW, C formed."""
    image = (v @ v.T / v.norm()) @ update
    return image, float((image * update).sum() / (image.norm() * update.norm()))


def test_reader_equals_what_was_saved(tmp_path: Path) -> None:
    from safetensors import safe_open

    for name, options in {"one": {}, "sharded": {"shards": True}}.items():
        folder = base_folder(tmp_path / name, 5, **options)
        weights = BaseWeights.load(folder)
        for m, shape in SHAPES.items():
            with safe_open(folder / weights.files[f"{m}.weight"], framework="pt") as handle:
                stored = handle.get_tensor(f"{m}.weight")
            assert torch.equal(weights.weight(m, dtype=torch.float64), stored)
            assert weights.weight(m).dtype == torch.float32
            assert weights.shape(m) == shape
            assert torch.equal(weights.weight(m, kind=Conv1DKind(), dtype=torch.float64), stored.T)
            assert weights.shape(m, kind=EmbeddingKind()) == shape[::-1]


def test_reader_finds_names_without_and_with_the_heads_prefix(tmp_path: Path) -> None:
    longer = BaseWeights.load(base_folder(tmp_path / "longer", 5, prefix="transformer."))
    plain = BaseWeights.load(base_folder(tmp_path / "plain", 5))
    module = MODULES[0]
    assert torch.equal(longer.weight(module), plain.weight(module))
    assert torch.equal(plain.weight(f"transformer.{module}"), plain.weight(module))
    with pytest.raises(BaseModelError, match=r"module 'lm_head' needs a tensor 'lm_head.weight', found none"):
        plain.weight("lm_head")


def test_reader_reads_only_the_shard_at_hand(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", 5, shards=True)
    weights = BaseWeights.load(folder)
    (folder / weights.files[f"{MODULES[1]}.weight"]).write_bytes(b"damaged")
    assert weights.weight(MODULES[0]).shape == SHAPES[MODULES[0]]
    with pytest.raises(BaseModelError, match="cannot be read as safetensors"):
        weights.weight(MODULES[1])


def test_reader_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="no such folder"):
        BaseWeights.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        BaseWeights.load(tmp_path / "empty")
    for name, text in {"bad": "{", "none": "{}", "list": '{"weight_map": []}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors.index.json").write_text(text)
        with pytest.raises(BaseModelError, match=r"model.safetensors.index.json"):
            BaseWeights.load(tmp_path / name)
    folder = base_folder(tmp_path / "base", 5, shards=True)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"names shard 'model-1\.safetensors', which is not a file"):
        BaseWeights.load(folder)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../empty"}}')
    with pytest.raises(BaseModelError, match=r"'\.\./empty'"):
        BaseWeights.load(tmp_path / "outside")
    (tmp_path / "packed").mkdir()
    save_file({"m.weight": torch.zeros(4, 4, dtype=torch.uint8)}, tmp_path / "packed" / "model.safetensors")
    with pytest.raises(BaseModelError, match="Give the unquantised model"):
        BaseWeights.load(tmp_path / "packed").weight("m")


@pytest.mark.parametrize("source", ["weights", "safety"])
def test_safe_lora_projects_below_the_threshold(bases, source) -> None:
    adapters = [SKILL.with_(weight=0.7), OTHER.with_(weight=-2.0), SAFE.with_(weight=0.5)]
    truth = {
        (a.name, m): projected(difference(bases, m) if source == "weights" else 0.5 * delta(SAFE, m), delta(a, m))
        for a in adapters[:2]
        for m in MODULES
    }
    cosines = sorted(cos for _, cos in truth.values())
    threshold = (cosines[2] + cosines[3]) / 2
    found = run("safe_lora", adapters, threshold=threshold, safety_strength=1.5, alignment=source, **bases)
    expected = {}
    for m in MODULES:
        expected[m] = 1.5 * 0.5 * delta(SAFE, m)
        for a in adapters[:2]:
            image, cos = truth[a.name, m]
            expected[m] = expected[m] + a.weight * (image if cos < threshold else delta(a, m))
    assert_deltas(found, expected, 1e-8)
    report = found.report.method_report
    assert report["projected"] == 3
    for (name, m), (_, cos) in truth.items():
        assert report["cosine"][name][m] == pytest.approx(cos, abs=1e-9)


def test_safe_lora_lowest_layers_and_limits(bases) -> None:
    cosines = {m: projected(difference(bases, m), delta(SKILL, m))[1] for m in MODULES}
    lowest = min(cosines, key=lambda m: cosines[m])
    found = run("safe_lora", [SKILL], layers=1, **bases)
    assert_deltas(
        found,
        {m: projected(difference(bases, m), delta(SKILL, m))[0] if m == lowest else delta(SKILL, m) for m in MODULES},
    )
    none = run("safe_lora", [SKILL], threshold=-1.0, **bases)
    assert_deltas(none, {m: delta(SKILL, m) for m in MODULES}, 1e-12)
    assert any("nothing was projected" in w for w in none.report.warnings)
    every = run("safe_lora", [SKILL], threshold=1.01, **bases)
    assert_deltas(every, {m: projected(difference(bases, m), delta(SKILL, m))[0] for m in MODULES})
    same = {"base_weights": bases["base_weights"], "aligned_weights": bases["base_weights"]}
    assert_deltas(run("safe_lora", [SKILL], threshold=1.01, **same), {m: delta(SKILL, m) for m in MODULES}, 1e-12)


@pytest.mark.parametrize("source", ["weights", "safety"])
def test_safe_merge_mixes_below_the_threshold(bases, source) -> None:
    adapters = [SKILL.with_(weight=0.7), OTHER, SAFE.with_(weight=0.5)]
    task = {m: 0.7 * delta(SKILL, m) + delta(OTHER, m) for m in MODULES}
    safety = {m: 0.5 * delta(SAFE, m) for m in MODULES}
    cosines = {m: projected(difference(bases, m) if source == "weights" else safety[m], task[m])[1] for m in MODULES}
    threshold = sorted(cosines.values())[1] + 1e-9
    found = run("safe_merge", adapters, threshold=threshold, safety_share=0.3, alignment=source, **bases)
    mixed = {m: 0.7 * task[m] + 0.3 * safety[m] if cosines[m] < threshold else task[m] for m in MODULES}
    assert_deltas(found, mixed)
    assert found.report.method_report["mixed"] == 2
    assert found.report.method_report["cosine"] == pytest.approx(cosines, abs=1e-9)
    assert_deltas(run("safe_merge", adapters, threshold=-1.0, **bases), task)
    assert_deltas(run("safe_merge", adapters, threshold=1.01, safety_share=1.0, **bases), safety)


def test_resta_adds_the_best_update_of_a_rank_and_reports_its_energy(bases) -> None:
    found = run("resta", [SKILL, SAFE.with_(weight=0.5)], strength=0.4, vector_rank=3, **bases)
    expected = {}
    for m in MODULES:
        left, values, right = torch.linalg.svd(difference(bases, m), full_matrices=False)
        vector = left[:, :3] * values[:3] @ right[:3]
        expected[m] = delta(SKILL, m) + 0.5 * delta(SAFE, m) + 0.4 * vector
        energy = float(values[:3].square().sum() / values.square().sum())
        assert found.report.method_report["vector_energy"][m] == pytest.approx(energy, rel=1e-9)
        assert energy < 0.9
    assert_deltas(found, expected)
    whole = run("resta", [SKILL], vector_rank=24, **bases)
    assert_deltas(whole, {m: delta(SKILL, m) + difference(bases, m) for m in MODULES})


def test_resta_on_a_safety_adapter_is_task_arithmetic(bases) -> None:
    for options in ({}, {"alignment": "safety", **bases}):
        found = run("resta", [SKILL, SAFE.with_(weight=0.5)], strength=0.4, **options)
        assert_deltas(found, {m: delta(SKILL, m) + 0.2 * delta(SAFE, m) for m in MODULES})


def test_resta_dare_drops_tasks_only_and_keeps_their_expectation(bases) -> None:
    undropped = run("resta_dare", [SKILL], drop=0.0, strength=0.4, **bases)
    assert_deltas(undropped, {m: delta(SKILL, m) + 0.4 * difference(bases, m) for m in MODULES})
    total = {m: torch.zeros(SHAPES[m]).double() for m in MODULES}
    for seed in range(60):
        found = run("resta_dare", [SKILL], drop=0.5, strength=0.4, seed=seed, **bases)
        for m in MODULES:
            kept = delta(found, m) - 0.4 * difference(bases, m)
            # Every entry is either dropped or doubled.
            doubled = (kept - 2 * delta(SKILL, m)).abs() < 1e-9
            assert bool((doubled | (kept.abs() < 1e-9)).all())
            total[m] += kept
    for m in MODULES:
        deviation = (total[m] / 60 - delta(SKILL, m)).square().sum()
        assert float(deviation) < 2 * float(delta(SKILL, m).square().sum()) / 60


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_mergealign_interpolates(bases, strength) -> None:
    found = run("mergealign", [SKILL, OTHER], strength=strength, vector_rank=24, **bases)
    expected = {
        m: (1 - strength) * (delta(SKILL, m) + delta(OTHER, m)) + strength * difference(bases, m) for m in MODULES
    }
    assert_deltas(found, expected)
    from_adapter = run("mergealign", [SKILL, SAFE], strength=strength)
    assert_deltas(from_adapter, {m: (1 - strength) * delta(SKILL, m) + strength * delta(SAFE, m) for m in MODULES})


@pytest.mark.parametrize("method", ["safe_lora", "resta", "resta_dare", "mergealign"])
def test_missing_alignment_is_refused_by_name(bases, method, tmp_path) -> None:
    with pytest.raises(MergeError, match=rf"method '{method}' needs to know what alignment changed; found neither"):
        run(method, [SKILL])
    with pytest.raises(MergeError, match="found only aligned_weights"):
        run(method, [SKILL], aligned_weights=bases["aligned_weights"])
    with pytest.raises(MergeError, match=rf"option 'alignment' = 'safety' of method '{method}'"):
        run(method, [SKILL], alignment="safety", **bases)
    with pytest.raises(MergeError, match=rf"option 'alignment' = 'weights' of method '{method}'"):
        run(method, [SKILL, SAFE], alignment="weights")
    (tmp_path / "other").mkdir()
    save_file({f"{m}.weight": torch.zeros(3, 5) for m in MODULES}, tmp_path / "other" / "model.safetensors")
    other = BaseWeights.load(tmp_path / "other")
    with pytest.raises(BaseModelError, match=r"is \(3, 5\) \(d_out, d_in\), the adapters need"):
        run(method, [SKILL], base_weights=bases["base_weights"], aligned_weights=other)


@pytest.mark.parametrize("bias", [False, True])
def test_large_weights_are_cut_by_a_randomised_svd_and_a_bias_column_is_kept(
    relative_error: Any, tmp_path, bias
) -> None:
    """Above 512 rows and columns; the oracle is the known spectrum."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, 600, generator=generator, dtype=torch.float64))[0] for n in (640, 600)
    )
    values = 0.8 ** torch.arange(600, dtype=torch.float64)
    vector = (left * values) @ right.T
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    save_file({"m.weight": torch.zeros(640, 600).double()}, tmp_path / "a" / "model.safetensors")
    save_file({"m.weight": vector}, tmp_path / "b" / "model.safetensors")
    b, a = torch.randn(640, 2, generator=generator).double(), torch.randn(2, 600 + bias, generator=generator).double()
    skill = Adapter.from_factors({"m": LoraFactors(b, a, bias=bias)}, name="skill")
    found = run(
        "resta",
        [skill],
        vector_rank=8,
        base_weights=BaseWeights.load(tmp_path / "a"),
        aligned_weights=BaseWeights.load(tmp_path / "b"),
    )
    best = (left[:, :8] * values[:8]) @ right[:, :8].T
    assert relative_error(delta(found, "m") - skill.delta("m"), best) < 1e-6
    energy = float(values[:8].square().sum() / values.square().sum())
    assert found.report.method_report["vector_energy"]["m"] == pytest.approx(energy, rel=1e-8)
    if bias:
        shift = found.adapter.factors("m").bias_delta()
        assert shift is not None
        assert relative_error(shift, b @ a[:, -1]) < 1e-9


# --- Safe Delta -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compensate", [True, False])
def test_safe_delta_selects_and_compensates_as_defined(build: Any, model, compensate) -> None:
    """Entry by entry on the dense ΔW, with H from the inputs of one sample at a time."""
    budget, damping = 0.4, 0.05
    adapters = [SKILL.with_(weight=0.7), OTHER, SAFE.with_(weight=0.5)]
    found = run(
        "safe_delta", adapters, model, budget=budget, damping=damping, compensate=compensate, safety_strength=1.2
    )
    aligned = Adapter.from_factors(
        {m: LoraFactors(0.6 * SAFE.factors(m).b, SAFE.factors(m).a) for m in MODULES}, name="aligned"
    )
    seen = inputs(build, model, aligned, HARM)
    expected, harm = {}, {}
    for m in MODULES:
        hessian = seen[m].T @ seen[m] / len(seen[m])
        hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian))
        inverse = torch.linalg.inv(hessian)
        task = 0.7 * delta(SKILL, m) + delta(OTHER, m)
        costs = task.square() / (2 * inverse.diagonal())
        chosen: list[int] = []
        spent = 0.0
        for j in sorted(range(len(hessian)), key=lambda j: -float(inverse[j, j])):
            spent += float(costs[:, j].sum())
            if spent > budget * float(costs.sum()):
                break
            chosen.append(j)
        rest = [j for j in range(len(hessian)) if j not in chosen]
        assert chosen and rest
        kept = torch.zeros_like(task)
        kept[:, chosen] = task[:, chosen]
        before = float((kept @ hessian * kept).sum())
        if compensate:
            # Row by row the least-squares answer to the damage of the chosen entries.
            root = torch.linalg.cholesky(hessian).T
            for i in range(len(task)):
                answer = torch.linalg.lstsq(root[:, rest], -(root[:, chosen] @ kept[i, chosen])[:, None]).solution
                kept[i, rest] = answer[:, 0]
            harm[m] = float((kept @ hessian * kept).sum()) / before
        expected[m] = kept + 0.6 * delta(SAFE, m)
        assert found.report.method_report["selected_inputs"][m] == pytest.approx(len(chosen) / len(hessian))
    assert_deltas(found, expected, 1e-5)
    assert all(share < 1.0 for share in harm.values())
    assert max(f.rank for f in found.report.modules.values()) <= 6


def test_safe_delta_limits(model) -> None:
    whole = {m: delta(SKILL, m) + delta(SAFE, m) for m in MODULES}
    assert_deltas(run("safe_delta", [SKILL, SAFE], model, budget=1.0), whole, 1e-6)
    assert_deltas(run("safe_delta", [SKILL, SAFE], model, budget=0.0), {m: delta(SAFE, m) for m in MODULES}, 1e-6)
    with pytest.raises(MergeError, match=r"'safe_delta' found no adapter of role safety.*aligned_base: true"):
        run("safe_delta", [SKILL, OTHER], model)


# --- LED-Merging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disjoint", [True, False])
def test_led_merging_locates_elects_and_keeps_apart(build: Any, model, disjoint) -> None:
    """Scores from autograd per sample on a model with ΔW added, ranks by sorting, sets as Python sets."""
    rate, adapters = 0.3, [SKILL.with_(weight=0.7), OTHER.with_(weight=-1.5), SAFE]
    minus = Adapter.from_factors(
        {m: LoraFactors(-OTHER.factors(m).b, OTHER.factors(m).a) for m in MODULES}, name="minus"
    )
    found = run(
        "led_merging",
        adapters,
        model,
        rate=rate,
        disjoint=disjoint,
        samples=6,
        strength=1.5,
        adapter_benign={"skill": OWN},
    )
    elected: list[dict[str, set[tuple[int, int]]]] = []
    for point, data in ((SKILL, OWN), (minus, BENIGN), (SAFE, HARM)):
        claims = []
        for where in (None, point):
            gradients = weight_gradients(build, model, where, data)
            weights = build.add_deltas(model, where) if where is not None else model
            answers = torch.tensor([float((b.labels[i, 1:] >= 0).sum()) for b in data for i in range(len(b))])
            claim = {}
            for m in MODULES:
                per_token = gradients[m][:6] / answers[:6, None, None]
                score = weights.get_submodule(m).weight.detach().abs() * per_token.abs().mean(0)
                order = score.flatten().argsort(descending=True)[: int(rate * score.numel())]
                claim[m] = {divmod(int(j), score.shape[1]) for j in order}
            claims.append(claim)
        elected.append({m: claims[0][m] & claims[1][m] for m in MODULES})
    expected = {}
    for m in MODULES:
        expected[m] = torch.zeros(SHAPES[m]).double()
        for i, adapter in enumerate(adapters):
            others = set().union(*(e[m] for k, e in enumerate(elected) if k != i)) if disjoint else set()
            assert elected[i][m] & others or not disjoint
            for r, c in elected[i][m] - others:
                expected[m][r, c] += 1.5 * adapter.weight * delta(adapter, m)[r, c]
    assert_deltas(found, expected, 1e-8)


def test_led_merging_limits(model) -> None:
    whole = run("led_merging", [SKILL, SAFE], model, rate=1.0, disjoint=False, samples=2)
    assert_deltas(whole, {m: delta(SKILL, m) + delta(SAFE, m) for m in MODULES})
    nothing = run("led_merging", [SKILL, SAFE], model, rate=1.0, samples=2)
    assert any("zero everywhere" in w for w in nothing.report.warnings)
    with pytest.raises(MergeError, match="'led_merging' keeps tasks apart"):
        run("led_merging", [SKILL], model)
    small = run("led_merging", [SKILL, SAFE], model, memory_gib=1e-9, samples=4)
    large = run("led_merging", [SKILL, SAFE], model, samples=4)
    assert_deltas(small, {m: delta(large, m) for m in MODULES}, 1e-12)


# --- learned coefficients -------------------------------------------------------------------------------------------


# --- IRR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recalibrate", [True, False])
@pytest.mark.parametrize(("source", "kept"), [("safety", 0.6), ("weights", 0.0)])
def test_irr_is_its_definition(build: Any, model, bases, source, kept, recalibrate) -> None:
    """Column by column with plain inverses of what is left of H; Fisher information from dense gradients."""
    skill = SKILL.with_(weight=0.7)
    adapters, given = ([skill, SAFE], {}) if source == "safety" else ([skill], bases)
    found = run("irr", adapters, model, kept=kept, recalibrate=recalibrate, adapter_benign={"skill": OWN}, **given)
    dense = {m: 0.7 * delta(SKILL, m) for m in MODULES}
    added = {m: delta(SAFE, m) if source == "safety" else torch.zeros(SHAPES[m]).double() for m in MODULES}
    point = mixed(({m: dense[m] + added[m] for m in MODULES}, MODULES))
    seen = inputs(build, model, point, OWN)
    fishers = weight_gradients(build, model, SAFE if source == "safety" else None, HARM)
    expected = {}
    for m in MODULES:
        vector = added[m] if source == "safety" else difference(bases, m)
        opposed = [(i, j) for i, j in np.ndindex(*SHAPES[m]) if dense[m][i, j] * vector[i, j] < 0]
        opposed.sort(key=lambda at: float(fishers[m][:, at[0], at[1]].square().sum()))
        gone = set(opposed[int(kept * len(opposed)) :])
        assert found.report.method_report["removed"][m] == pytest.approx(len(gone) / dense[m].numel(), abs=1e-6)
        hessian = seen[m].T @ seen[m] / len(seen[m])
        hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian)).double()
        left = dense[m].clone()
        for j in range(SHAPES[m][1]):
            inverse = torch.linalg.inv(hessian[j:, j:])
            for i in range(SHAPES[m][0]):
                if (i, j) in gone:
                    push = left[i, j] / inverse[0, 0] * inverse[0]
                    left[i, j:] -= push if recalibrate else torch.cat([left[i, j : j + 1], torch.zeros_like(push[1:])])
        expected[m] = left + added[m]
    assert_deltas(found, expected, 1e-6)


def objective(build: Any, model: torch.nn.Module, merged: MergeResult, harm_weight: float) -> float:
    """harm_weight · mean log p(refusal) + mean log p(answer), per answer token of every sample, by hand."""
    moved, totals = build.add_deltas(model, merged.adapter), []
    for data in (HARM, BENIGN):
        means = []
        for batch in data:
            for i in range(len(batch)):
                length = int(batch.attention_mask[i].sum())
                with torch.no_grad():
                    logp = torch.log_softmax(moved(input_ids=batch.input_ids[i : i + 1, :length]).logits[0, :-1], -1)
                labels = batch.labels[i, 1:length]
                means.append(float(logp[labels >= 0].gather(1, labels[labels >= 0][:, None]).mean()))
        totals.append(sum(means) / len(means))
    return harm_weight * totals[0] + totals[1]


@pytest.mark.parametrize("method", ["ada_merging", "layer_interpolation"])
def test_learning_improves_the_objective_it_documents(build: Any, model, method) -> None:
    start = run(method, [SKILL, SAFE], model, harm_weight=0.5, steps=0)
    found = run(method, [SKILL, SAFE], model, harm_weight=0.5, steps=20)
    before, after = objective(build, model, start, 0.5), objective(build, model, found, 0.5)
    assert after > before + 0.02
    # Two batches of four a kind: the first step sees the first of each, so only its own value can be told by hand.
    assert len(found.report.method_report["objective"]) == 20


def test_ada_merging_uses_the_reported_coefficients(model) -> None:
    plain = run("ada_merging", [SKILL, SAFE.with_(weight=0.5)], model, steps=0, strength=2.0)
    assert_deltas(plain, {m: 2.0 * delta(SKILL, m) + delta(SAFE, m) for m in MODULES})
    found = run("ada_merging", [SKILL, SAFE.with_(weight=0.5)], model, steps=3)
    learned = found.report.method_report["coefficients"]
    assert len({c for row in learned.values() for c in row.values()}) > 1
    assert_deltas(
        found,
        {m: learned[m]["skill"] * delta(SKILL, m) + 0.5 * learned[m]["safe"] * delta(SAFE, m) for m in MODULES},
    )
    with pytest.raises(MergeError, match="'ada_merging' weighs adapters against each other; found one"):
        run("ada_merging", [SKILL], model)


def test_lora_soups_is_adam_on_shares(build: Any, model) -> None:
    """Through a dense model whose weights are the base's and the shares' sum of updates, one sample at a time."""
    adapters = [SKILL.with_(weight=1.5), OTHER.with_(weight=-0.5)]
    found = run("lora_soups", adapters, model, steps=3, learning_rate=0.3, strength=2.0, adapter_benign={"skill": OWN})
    scores = torch.zeros(len(MODULES), 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.3)
    signed = [(1.0, SKILL), (-1.0, OTHER)]
    for step in range(3):
        loss = torch.zeros(()).double()
        for weight, data in ((0.75, OWN), (0.25, BENIGN)):
            shares = scores.softmax(1)
            weights = {
                f"{m}.weight": model.get_submodule(m).weight.detach()
                + sum(shares[i, j] * sign * delta(a, m) for j, (sign, a) in enumerate(signed))
                for i, m in enumerate(MODULES)
            }
            batch = data[step % len(data)]
            for i in range(len(batch)):
                length = int(batch.attention_mask[i].sum())
                tokens = {"input_ids": batch.input_ids[i : i + 1, :length]}
                logp = torch.func.functional_call(model, weights, kwargs=tokens).logits[0, :-1].log_softmax(-1)
                labels = batch.labels[i, 1:length]
                loss = loss - weight / len(batch) * logp[labels >= 0].gather(1, labels[labels >= 0][:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shares = scores.detach().softmax(1)
    assert float((shares - 0.5).abs().min()) > 0.01
    expected = {
        m: 2.0 * (shares[i, 0] * delta(SKILL, m) - shares[i, 1] * delta(OTHER, m)) for i, m in enumerate(MODULES)
    }
    # What is learned is rounded to three decimals.
    assert_deltas(found, expected, 2e-3)
    reported = found.report.method_report["coefficients"]
    assert all(sum(row.values()) == pytest.approx(1.0, abs=2e-4) for row in reported.values())


def test_calibration_only_is_adam_on_dense_weights_in_the_adapters_spans(build: Any, model) -> None:
    """Three steps by hand: dense gradients of the answers, in the spans' coordinates; other adapters of the same spans
    and size give the same, for nothing else of them is used."""
    steps, rate, weight = 3, 0.05, 0.5
    adapters = [SKILL, SAFE]
    found = run("calibration_only", adapters, model, harm_weight=weight, steps=steps, learning_rate=rate, strength=2.0)
    bases = {m: core_bases(adapters, m) for m in MODULES}
    squares = sum(float(delta(a, m).square().sum()) for a in adapters for m in MODULES)
    step_size = rate * (squares / (len(adapters) * sum(u.shape[1] * v.shape[1] for u, v in bases.values()))) ** 0.5
    moved = copy.deepcopy(model)
    for m in MODULES:
        moved.get_submodule(m).weight.requires_grad_(True)
    cores = {m: torch.zeros(u.shape[1], v.shape[1], dtype=torch.float64) for m, (u, v) in bases.items()}
    first = {m: torch.zeros_like(c) for m, c in cores.items()}
    second = {m: torch.zeros_like(c) for m, c in cores.items()}
    for step in range(1, steps + 1):
        gradients = dict.fromkeys(MODULES, 0.0)
        for share, batch in ((1.0, BENIGN[(step - 1) % 2]), (weight, HARM[(step - 1) % 2])):
            logp = torch.log_softmax(moved(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, -1)
            keep = batch.labels[:, 1:] >= 0
            mean = logp[:, :-1][keep].gather(1, batch.labels[:, 1:][keep][:, None]).mean()
            weights = [moved.get_submodule(m).weight for m in MODULES]
            for m, gradient in zip(MODULES, torch.autograd.grad(mean, weights), strict=True):
                gradients[m] = gradients[m] + share * gradient
        for m, (u, v) in bases.items():
            g = u.T @ gradients[m] @ v
            first[m], second[m] = 0.9 * first[m] + 0.1 * g, 0.999 * second[m] + 0.001 * g * g
            unit = (first[m] / (1 - 0.9**step)) / ((second[m] / (1 - 0.999**step)).sqrt() + 1e-8)
            cores[m] = cores[m] + step_size * unit
            with torch.no_grad():
                moved.get_submodule(m).weight.copy_(model.get_submodule(m).weight + u @ cores[m] @ v.T)
    # Adam looks at every coordinate alone, so the bases must be the merge's own up to signs, as SVDs are.
    assert_deltas(found, {m: 2.0 * u @ cores[m] @ v.T for m, (u, v) in bases.items()}, 1e-3)
    turned = [SKILL.with_(weight=-3.0), SAFE]
    assert_deltas(
        run("calibration_only", turned, model, harm_weight=weight, steps=steps, learning_rate=rate, strength=2.0),
        {m: delta(found, m) for m in MODULES},
    )


@pytest.mark.parametrize("combine", ["interpolate", "add"])
def test_layer_interpolation_has_one_coefficient_per_layer(model, combine) -> None:
    found = run("layer_interpolation", [SKILL, SAFE], model, combine=combine, steps=3)
    t = found.report.method_report["t"]
    assert set(t) == {"model.layers.0", "model.layers.1"}
    assert all(0.0 <= value <= 1.0 for value in t.values())
    keep = 1.0 if combine == "interpolate" else 0.0
    assert_deltas(
        found,
        {m: (1 - keep * t[m[:14]]) * delta(SKILL, m) + t[m[:14]] * delta(SAFE, m) for m in MODULES},
    )


def test_layer_interpolation_follows_the_weight_of_safety(build: Any, model) -> None:
    """Tuned for refusals the merge must refuse more than tuned for benign answers alone."""
    low, high = (run("layer_interpolation", [SKILL, SAFE], model, harm_weight=w) for w in (0.0, 50.0))
    refusals = [objective(build, model, r, 1e6) for r in (low, high)]
    assert refusals[1] > refusals[0]


def test_other_orientations_and_bias_columns(build: Any, relative_error: Any) -> None:
    """GPT-2 stores (d_in, d_out); one adapter has a LoRA bias, whose input is the constant 1."""
    gpt2 = build.tiny_model("gpt2", dtype=torch.float64)
    shapes = {"transformer.h.0.attn.c_attn": (48, 16), "transformer.h.1.mlp.c_fc": (64, 16)}
    generator = torch.Generator().manual_seed(4)

    def make(name: str, bias: bool) -> Adapter:
        factors = {
            m: LoraFactors(
                0.1 * torch.randn(d_out, 2, generator=generator, dtype=torch.float64),
                torch.randn(2, d_in + bias, generator=generator, dtype=torch.float64),
                Conv1DKind(),
                bias,
            )
            for m, (d_out, d_in) in shapes.items()
        }
        return Adapter.from_factors(factors, name=name, role="safety" if name == "safe" else "utility")

    def wide(adapter: Adapter, m: str) -> Tensor:
        factors = adapter.factors(m).with_bias()
        return factors.b @ factors.a

    skill, safe = make("skill", True), make("safe", False)
    first = next(iter(shapes))
    for method, options, expected in (
        ("led_merging", {"rate": 1.0, "disjoint": False}, lambda m: wide(skill, m) + wide(safe, m)),
        ("safe_delta", {"budget": 1.0}, lambda m: wide(skill, m) + wide(safe, m)),
        ("alignguard_lora", {"m": 0}, lambda m: wide(skill, m) + wide(safe, m)),
        ("fisher_merging", {"damping": 1e9}, lambda m: (wide(skill, m) + wide(safe, m)) / 2),
        # The first layer's inputs are those of the base in both models, and here the data are the same too.
        ("regmean", {"adapter_benign": {"skill": OWN, "safe": OWN}}, lambda m: (wide(skill, m) + wide(safe, m)) / 2),
        # And where the block below is the merged one, the second layer's too.
        (
            "regmean_plusplus",
            {"adapter_benign": {"skill": OWN, "safe": OWN}},
            lambda m: (wide(skill, m) + wide(safe, m)) / 2,
        ),
        ("lora_soups", {"steps": 0}, lambda m: (wide(skill, m) + wide(safe, m)) / 2),
        ("irr", {"kept": 1.0}, lambda m: wide(skill, m) + wide(safe, m)),
    ):
        found = run(method, [skill, safe], gpt2, **options)
        for m in shapes if method != "regmean" else [first]:
            assert relative_error(wide(found.adapter, m), expected(m)) < 1e-6, (method, m)
    # Two batches in turn: the last step looks at those of the first one.
    objectives = run("prodistill", [skill, safe], gpt2, steps=7).report.method_report["objective"]
    assert all(last < first for first, last in objectives.values()), objectives
    # A normalised input always has a null direction beside the constant 1: there, and only there, safety is kept.
    seen: list[Tensor] = []
    handle = gpt2.get_submodule(first).register_forward_hook(lambda _, args, __: seen.append(args[0].flatten(0, 1)))
    for batch in BENIGN:
        gpt2(input_ids=batch.input_ids)
    handle.remove()
    unpadded = torch.cat(seen)[torch.cat([b.attention_mask.flatten() for b in BENIGN]).bool()].detach()
    added = wide(run("benign_null_space", [skill, safe], gpt2, threshold=0.0).adapter, first) - wide(skill, first)
    reached = added @ torch.cat([unpadded, torch.ones(len(unpadded), 1)], dim=1).T
    assert float(added.norm()) > 1e-3
    assert float(reached.norm()) < 1e-9 * float(unpadded.norm())


def test_options_out_of_range_are_named(model, bases) -> None:
    for method, option, value in (
        ("fisher_merging", "damping", 0.0),
        ("regmean", "off_diagonal", 1.5),
        ("benign_null_space", "threshold", -0.1),
        ("alignguard_lora", "share", 2.0),
        ("safe_lora", "layers", -1),
        ("safe_merge", "safety_share", 1.5),
        ("resta", "vector_rank", 0),
        ("resta_dare", "drop", 1.0),
        ("mergealign", "strength", 1.5),
        ("layer_interpolation", "start", 2.0),
        ("ada_merging", "steps", -1),
        ("safe_delta", "budget", 1.5),
        ("led_merging", "rate", 0.0),
        ("irr", "kept", 1.5),
        ("lora_soups", "learning_rate", 0.0),
        ("prodistill", "learning_rate", 0.0),
        ("regmean_plusplus", "damping", 0.0),
    ):
        with pytest.raises(OptionError, match=rf"option '{option}' = {value} of method '{method}'"):
            run(method, [SKILL, SAFE], model, **bases, **{option: value})


def test_command_line_hands_both_bases_to_the_method(build: Any, relative_error: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sst_merge.cli.main import cli

    models = {}
    for seed, name in enumerate(("plain", "aligned")):
        models[name] = build.tiny_model("llama", seed=seed)
        models[name].save_pretrained(tmp_path / name)
    SKILL.save(tmp_path / "skill", dtype=torch.float32)
    arguments = ["merge", "--method", "resta", "--adapter", str(tmp_path / "skill"), "--set", "vector_rank=16"]
    arguments += ["--base-model", str(tmp_path / "plain"), "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code != 0
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(cli, [*arguments, "--aligned-base-model", str(tmp_path / "aligned")])
    assert done.exit_code == 0, done.output
    merged = Adapter.load(tmp_path / "out")
    for m in MODULES:
        plain, aligned = (models[name].get_submodule(m).weight.double() for name in ("plain", "aligned"))
        assert relative_error(delta(merged, m), delta(SKILL, m) + aligned - plain) < 1e-5
