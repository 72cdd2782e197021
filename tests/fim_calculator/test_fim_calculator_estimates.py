"""Collected Fishers against naive per-sample autograd in float64."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sst_merge.core_space import CoreSpace
from sst_merge.data_loader import AnswerLogits
from sst_merge.data_loader.batch import IGNORED, Batch
from sst_merge.errors import BaseModelError, DataError, FisherError
from sst_merge.fim_calculator import (
    BlockFisher,
    CoreModel,
    DiagonalFisher,
    KroneckerFisher,
    SampleGradients,
    compute_fim,
    token_logprobs,
)
from sst_merge.fim_calculator.likelihood import token_log_odds
from sst_merge.lora_utils import Conv1DKind, EmbeddingKind, LinearKind

EXACT = 1e-9


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def make_spaces(model: Any, names: list[str], *, seed: int = 0) -> dict[str, CoreSpace]:
    """Random core spaces (p = 3, q = 2); Conv1D layers also get the constant input of a LoRA bias."""
    generator = torch.Generator().manual_seed(seed)
    spaces = {}
    for name in names:
        module = model.get_submodule(name)
        rows, columns = module.weight.shape
        if isinstance(module, nn.Embedding):
            kind, bias, shape = EmbeddingKind(), False, (columns, rows)
        elif isinstance(module, nn.Linear):
            kind, bias, shape = LinearKind(), False, (rows, columns)
        else:
            kind, bias, shape = Conv1DKind(), True, (columns, rows + 1)
        spaces[name] = CoreSpace(orthonormal(shape[0], 3, generator), orthonormal(shape[1], 2, generator), kind, bias)
    return spaces


NAMES = {
    "llama": [
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.gate_proj",
        "lm_head",
    ],
    "gpt2": [
        "transformer.wte",
        "transformer.wpe",
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.mlp.c_proj",
        "transformer.h.1.mlp.c_fc",
        "lm_head",
    ],
}


class Case:
    """One model, its core spaces, samples, a point, and the oracle's gradients there."""

    def __init__(self, build: Any, oracle: Any, architecture: str) -> None:
        self.model = build.tiny_model(architecture, dtype=torch.float64)
        self.batched = oracle.batched
        self.spaces = make_spaces(self.model, NAMES[architecture])
        self.samples = oracle.random_samples(7)
        generator = torch.Generator().manual_seed(5)
        self.point = {
            name: 0.3 * torch.randn(space.shape, generator=generator, dtype=torch.float64)
            for index, (name, space) in enumerate(self.spaces.items())
            if index != 1  # one module stays at M = 0 beside others that do not
        }
        self.rows = oracle.sample_gradients(self.model, self.spaces, self.samples, self.point)

    def fisher(self, structure: str, *, size: int = 3, side: str = "right", **options: Any) -> Any:
        options.setdefault("point", self.point)
        options.setdefault("estimator", "empirical")
        batches = self.batched(self.samples, size, side=side)
        return compute_fim(self.model, self.spaces, batches, structure=structure, **options)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def case(request: pytest.FixtureRequest, build: Any, oracle: Any) -> Case:
    return Case(build, oracle, request.param)


@pytest.fixture(scope="module")
def llama(build: Any, oracle: Any) -> Case:
    return Case(build, oracle, "llama")


def test_block_is_the_dense_fisher_of_every_module(oracle: Any, relative_error: Any, case: Case) -> None:
    fisher = case.fisher("block")
    for name, rows in case.rows.items():
        assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(rows)) < EXACT, name


def test_lowrank_rows_are_the_gradients_themselves(oracle: Any, relative_error: Any, case: Case) -> None:
    fisher = case.fisher("lowrank")
    for name, rows in case.rows.items():
        layer = fisher.layers[name]
        assert isinstance(layer, SampleGradients)
        assert relative_error(layer.rows, rows) < EXACT, name
        assert relative_error(layer.dense(), oracle.dense_fisher(rows)) < EXACT, name


def test_lowrank_acts_across_modules(oracle: Any, relative_error: Any, case: Case) -> None:
    fisher = case.fisher("lowrank")
    names = list(case.rows)
    flat = torch.cat([case.rows[name].flatten(1) for name in names], dim=1)
    cores = {name: torch.randn(3, 2, dtype=torch.float64) for name in names[:-1]}
    vector = torch.cat([cores.get(name, torch.zeros(3, 2, dtype=torch.float64)).flatten() for name in names])
    found = fisher.matvec(cores)
    assert (
        relative_error(torch.cat([found[name].flatten() for name in names]), oracle.dense_fisher(flat) @ vector) < EXACT
    )


def test_diagonal_and_variance(oracle: Any, relative_error: Any, case: Case) -> None:
    fisher = case.fisher("diagonal")
    for name, rows in case.rows.items():
        layer = fisher.layers[name]
        assert isinstance(layer, DiagonalFisher)
        assert relative_error(layer.diagonal().flatten(), oracle.dense_fisher(rows).diagonal()) < EXACT, name
        assert relative_error(layer.variance(), rows.var(0, correction=0)) < EXACT, name


def test_kronecker_factors_are_sums_over_tokens(oracle: Any, relative_error: Any, case: Case) -> None:
    # Inputs and output gradients of every token, sample by sample, from autograd on the layers' outputs.
    moved = oracle.with_update(case.model, case.spaces, case.point).requires_grad_(False)
    seen: dict[str, list[Any]] = {name: [] for name in case.spaces}
    for name in case.spaces:

        def keep(module: Any, args: Any, output: Tensor, name: str = name) -> Tensor:
            output = output.detach().requires_grad_() if not output.requires_grad else output
            output.retain_grad()
            seen[name].append((args[0], output))
            return output

        moved.get_submodule(name).register_forward_hook(keep)
    moved.get_input_embeddings().register_forward_hook(
        lambda module, args, output: output if output.requires_grad else output.requires_grad_()
    )
    tokens = 0
    for ids, prompt in case.samples:
        logs = torch.log_softmax(moved(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        sum(logs[t - 1, ids[t]] for t in range(prompt, len(ids))).backward()
        tokens += len(ids)
    fisher = case.fisher("kronecker")
    for name, space in case.spaces.items():
        deltas = torch.cat([output.grad.flatten(0, 1) for _, output in seen[name]]) @ space.left
        inputs = [
            args.detach().flatten(0, args.ndim - 2) if args.is_floating_point() else args for args, _ in seen[name]
        ]
        if space.kind == EmbeddingKind():
            z = torch.cat([space.right[ids.flatten()] for ids in inputs])
        else:
            x = torch.cat(inputs)
            z = torch.cat([x, x.new_ones(len(x), 1)], dim=1) @ space.right if space.bias else x @ space.right
        layer = fisher.layers[name]
        assert isinstance(layer, KroneckerFisher)
        assert layer.tokens == tokens == len(z)
        assert relative_error(layer.grad_factor, deltas.T @ deltas / len(case.samples)) < EXACT, name
        assert relative_error(layer.input_factor, z.T @ z / tokens) < EXACT, name


@pytest.mark.parametrize("structure", ["diagonal", "kronecker", "block", "lowrank"])
def test_batches_and_padding_side_make_no_difference(relative_error: Any, case: Case, structure: str) -> None:
    reference = case.fisher(structure, size=1)
    for size, side in itertools.product((2, 5), ("right", "left")):
        other = case.fisher(structure, size=size, side=side)
        for name, layer in reference.layers.items():
            assert relative_error(other.layers[name].dense(), layer.dense()) < EXACT, (name, size, side)
            assert other.layers[name].counts() == layer.counts()


def test_log_odds_is_the_fisher_of_log_p_over_one_minus_p(oracle: Any, relative_error: Any, llama: Case) -> None:
    """Every sample's gradient of Σ log p − log(1 − p), by autograd, one sample at a time."""
    moved = oracle.with_update(llama.model, llama.spaces, llama.point).requires_grad_(True)
    rows: dict[str, list[Tensor]] = {name: [] for name in llama.spaces}
    for ids, prompt in llama.samples:
        moved.zero_grad(set_to_none=True)
        p = torch.softmax(moved(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        chosen = torch.stack([p[i - 1, ids[i]] for i in range(prompt, len(ids))])
        (chosen.log() - (1 - chosen).log()).sum().backward()
        for name, space in llama.spaces.items():
            rows[name].append(oracle.project(moved.get_submodule(name), space))
    found = llama.fisher("block", estimator="log_odds")
    for name, layer in found.layers.items():
        assert relative_error(layer.dense(), oracle.dense_fisher(torch.stack(rows[name]))) < EXACT
        assert relative_error(layer.dense(), oracle.dense_fisher(llama.rows[name])) > 1e-3


def test_log_odds_keep_their_gradient_where_the_model_is_certain() -> None:
    """Float32 logits so large that log p rounds to 0: its gradient is as good as gone, that of the log-odds is 1."""
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = 60.0
    logits.requires_grad_(True)
    batch = Batch(torch.tensor([[1, 3]]), torch.ones(1, 2, dtype=torch.int64), torch.tensor([[IGNORED, 3]]))
    answers = AnswerLogits.of(logits, batch)
    plain = torch.autograd.grad(token_logprobs(answers)[0].sum(), logits, retain_graph=True)[0]
    odds = torch.autograd.grad(token_log_odds(answers)[0].sum(), logits)[0]
    assert float(plain.abs().max()) < 1e-20
    assert float(odds[0, 0, 3]) == 1.0
    torch.testing.assert_close(odds[0, 0, [0, 1, 2, 4]], torch.full((4,), -0.25))


def test_sampled_labels_do_not_depend_on_batches(llama: Case) -> None:
    found = [
        llama.fisher("block", size=size, estimator="sampled", generator=torch.Generator().manual_seed(3)).trace()
        for size in (1, 4)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] != pytest.approx(llama.fisher("block").trace(), rel=1e-3)


def test_sampled_converges_to_the_expectation_over_labels(oracle: Any, llama: Case) -> None:
    # One response token a sample, so that the true Fisher is a finite sum over the vocabulary.
    contexts = [(ids[:4], 3) for ids, _ in llama.samples[:2]]
    name = "model.layers.1.mlp.gate_proj"
    spaces = {name: llama.spaces[name]}
    model = oracle.with_update(llama.model, {}, {}).requires_grad_(True)
    exact = torch.zeros(6, 6, dtype=torch.float64)
    second_moment = 0.0
    for ids, _ in contexts:
        chances = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, 2], dim=-1).detach()
        for label, chance in enumerate(chances.tolist()):
            g = oracle.gradients_of(model, spaces, ids, {3: label})[name].flatten()
            exact += chance / 2 * torch.outer(g, g)
            second_moment += chance / 2 * float(g @ g) ** 2
    generator = torch.Generator().manual_seed(0)
    repeats = 2000
    batches = [oracle.pad(contexts * 100)] * (repeats // 100)
    found = compute_fim(llama.model, spaces, batches, structure="block", estimator="sampled", generator=generator)
    # The mean squared error of a mean of n independent outer products, known exactly here.
    expected_error = (second_moment - float(exact.square().sum())) / (2 * repeats)
    error = float((found.layers[name].dense() - exact).square().sum())
    assert 0.0 < error < 6 * expected_error
    assert 6 * expected_error < 0.05 * float(exact.square().sum())


def test_three_points_equal_a_model_changed_by_hand(oracle: Any, relative_error: Any, case: Case) -> None:
    changed = oracle.with_update(case.model, case.spaces, case.point)
    at_point = case.fisher("block")
    by_hand = compute_fim(
        changed, case.spaces, oracle.batched(case.samples, 3), structure="block", estimator="empirical"
    )
    at_base = case.fisher("block", point=None)
    for name in case.spaces:
        assert relative_error(at_point.layers[name].dense(), by_hand.layers[name].dense()) < EXACT
        assert relative_error(at_base.layers[name].dense(), at_point.layers[name].dense()) > 1e-3
    with CoreModel(case.model, case.spaces) as core_model, torch.no_grad():
        core_model.set_point(case.point)
        batch = oracle.pad(case.samples[:1])
        expected = changed(input_ids=batch.input_ids).logits
        assert relative_error(core_model.logits(batch), expected) < EXACT
        core_model.set_point(None)
        assert torch.equal(core_model.logits(batch), case.model(input_ids=batch.input_ids).logits)


def test_cores_themselves_can_be_learnt_through_the_model(oracle: Any, relative_error: Any, case: Case) -> None:
    cores = {name: core.clone().requires_grad_() for name, core in case.point.items()}
    with CoreModel(case.model, case.spaces) as core_model:
        core_model.set_point(cores)
        logprobs, _ = token_logprobs(core_model.answers(oracle.pad(case.samples)))
        gradients = torch.autograd.grad(logprobs.sum(), list(cores.values()))
    for name, gradient in zip(cores, gradients, strict=True):
        assert relative_error(gradient, case.rows[name].sum(0)) < EXACT, name


@pytest.mark.parametrize("family", ["llama", "llama, head observed", "gemma2, soft caps"])
def test_a_large_output_layer_computes_where_answers_are(
    oracle: Any, build: Any, relative_error: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Same log-probabilities and Fisher as from every position, and fewer rows computed."""
    names = [name for name in NAMES["llama"] if "embed" not in name and ("head" in family or name != "lm_head")]
    model = (soft_capped() if "gemma2" in family else build.tiny_model("llama")).double()
    spaces = make_spaces(model, names)
    batch = oracle.pad(oracle.random_samples(3))
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _layer, _inputs, out: seen.append(out[..., 0].numel()))

    def collected() -> tuple[Tensor, dict[str, Tensor]]:
        with CoreModel(model, spaces) as core_model, torch.no_grad():
            found = token_logprobs(core_model.answers(batch))[0]
        fisher = compute_fim(model, spaces, [batch], structure="block")
        return found, {name: layer.dense() for name, layer in fisher.layers.items()}

    everywhere, rows = collected(), seen[-1]
    monkeypatch.setattr("sst_merge.fim_calculator.capture._LARGE_VOCABULARY", 1)
    picked = collected()
    assert seen[-1] == (rows if "head" in family else len(picked[0]))
    assert len(picked[0]) < rows
    assert relative_error(picked[0], everywhere[0]) < EXACT
    for name, matrix in everywhere[1].items():
        assert relative_error(picked[1][name], matrix) < EXACT, name


def soft_capped() -> Any:
    """A tiny Gemma 2 whose logits are squeezed."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    caps = {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "pad_token_id": 0}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=64, num_hidden_layers=2, head_dim=8, **shape, **caps)).eval()


def test_prompt_tokens_carry_no_loss(oracle: Any, llama: Case) -> None:
    ids, _ = llama.samples[0]
    batch = oracle.pad([(ids, 2)])
    with CoreModel(llama.model, llama.spaces) as core_model, torch.no_grad():
        logprobs, sample = token_logprobs(core_model.answers(batch))
        logs = torch.log_softmax(llama.model(input_ids=torch.tensor([ids])).logits[0], -1)
    expected = torch.stack([logs[t - 1, ids[t]] for t in range(2, len(ids))])
    assert torch.allclose(logprobs, expected, rtol=1e-12)
    assert sample.tolist() == [0] * len(expected)


def test_one_row_of_positions_for_the_whole_batch(build: Any, oracle: Any, relative_error: Any) -> None:
    # Models that take no position ids look positions up once, (1, t); every sample still needs its own gradient.
    model = build.tiny_model("gpt2", dtype=torch.float64)
    spaces = make_spaces(model, ["transformer.wpe", "transformer.wte"])
    samples = oracle.random_samples(5)
    expected = oracle.sample_gradients(model, spaces, samples)
    plain = type(model).forward
    model.forward = lambda input_ids, attention_mask: plain(model, input_ids, attention_mask=attention_mask)
    fisher = compute_fim(model, spaces, oracle.batched(samples, 5), structure="block", estimator="empirical")
    for name, rows in expected.items():
        assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(rows)) < EXACT, name


def test_embeddings_that_scale_their_output(build: Any, oracle: Any, relative_error: Any) -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    model = build.tiny_model("llama", dtype=torch.float64)
    name, weight = "model.embed_tokens", model.model.embed_tokens.weight
    model.model.embed_tokens = Gemma3TextScaledWordEmbedding(*weight.shape, None, embed_scale=4.0).double()
    spaces, samples = make_spaces(model, [name]), oracle.random_samples(4)
    point = {name: torch.ones(3, 2, dtype=torch.float64)}
    expected = oracle.sample_gradients(model, spaces, samples, point)[name]
    fisher = compute_fim(
        model, spaces, oracle.batched(samples, 2), structure="block", point=point, estimator="empirical"
    )
    assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(expected)) < EXACT


def test_modules_restricts_what_is_collected_but_not_the_point(oracle: Any, relative_error: Any, llama: Case) -> None:
    name = "model.layers.0.mlp.down_proj"
    fisher = llama.fisher("block", modules=[name])
    assert list(fisher.layers) == [name]
    assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(llama.rows[name])) < EXACT


def test_a_module_that_the_loss_never_reaches_is_zero(build: Any, oracle: Any) -> None:
    model = build.tiny_model("llama", dtype=torch.float64)
    model.spare = nn.Linear(5, 4, dtype=torch.float64)
    spaces = make_spaces(model, ["model.layers.0.mlp.up_proj", "spare"])
    for structure in ("diagonal", "kronecker", "block", "lowrank"):
        fisher = compute_fim(model, spaces, oracle.batched(oracle.random_samples(3), 2), structure=structure)
        assert fisher.layers["spare"].samples == 3
        assert fisher.layers["spare"].trace() == 0.0 < fisher.layers["model.layers.0.mlp.up_proj"].trace()


def test_a_module_that_runs_twice_sums_its_gradients(build: Any, oracle: Any, relative_error: Any) -> None:
    model = build.tiny_model("llama", dtype=torch.float64)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    name = "model.layers.0.mlp.up_proj"
    spaces = make_spaces(model, [name])
    samples = oracle.random_samples(5)
    expected = oracle.sample_gradients(model, spaces, samples)[name]
    fisher = compute_fim(model, spaces, oracle.batched(samples, 2), structure="block", estimator="empirical")
    assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(expected)) < EXACT
    kronecker = compute_fim(model, spaces, oracle.batched(samples, 2), structure="kronecker").layers[name]
    assert kronecker.counts()["tokens"] == 2 * sum(len(ids) for ids, _ in samples)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(build: Any, oracle: Any, relative_error: Any, llama: Case, dtype: torch.dtype) -> None:
    half = build.tiny_model("llama", dtype=dtype)
    wide = build.tiny_model("llama", dtype=dtype).to(torch.float64)  # the same rounded weights
    exact = oracle.sample_gradients(wide, llama.spaces, llama.samples)
    fisher = compute_fim(
        half, llama.spaces, oracle.batched(llama.samples, 3), structure="lowrank", estimator="empirical"
    )
    assert fisher.layers["lm_head"].tensors()["rows"].dtype == torch.float32
    for name, rows in exact.items():
        assert relative_error(fisher.layers[name].tensors()["rows"].double(), rows) < (
            0.05 if dtype == torch.bfloat16 else 0.01
        )


def test_float32_is_close_to_float64(build: Any, oracle: Any, relative_error: Any, llama: Case) -> None:
    single = build.tiny_model("llama")
    fisher = compute_fim(
        single,
        llama.spaces,
        oracle.batched(llama.samples, 3),
        structure="block",
        point=llama.point,
        estimator="empirical",
    )
    for name, rows in llama.rows.items():
        assert relative_error(fisher.layers[name].dense(), oracle.dense_fisher(rows)) < 1e-4


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_given_back_as_it_was(build: Any, oracle: Any, failing: bool) -> None:
    model = build.tiny_model("gpt2").train()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spaces = make_spaces(model, NAMES["gpt2"])
    batches = oracle.batched(oracle.random_samples(4), 2)
    if failing:
        with torch.no_grad():
            model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
        with pytest.raises(FisherError, match=r"batch 0.*NaN"):
            compute_fim(model, spaces, batches, structure="diagonal")
    else:
        found = [compute_fim(model, spaces, batches, structure="diagonal").trace() for _ in range(2)]
        assert found[0] == found[1]  # dropout is off
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [p is not frozen for p in model.parameters()]
    assert not any(module._forward_hooks for module in model.modules())


def test_no_weight_gradient_is_formed(build: Any, oracle: Any) -> None:
    model = build.tiny_model("llama")
    spaces = make_spaces(model, NAMES["llama"])
    with CoreModel(model, spaces) as core_model:
        assert not any(p.requires_grad for p in model.parameters())
        with core_model.recording(lambda module, e, z: None):
            batch = oracle.pad(oracle.random_samples(2))
            core_model.backward(token_logprobs(core_model.answers(batch))[0].sum())
        assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_refusals(oracle: Any, llama: Case) -> None:
    ids = torch.tensor([[1, 2, 3]])
    silent = Batch(ids, torch.ones_like(ids), torch.tensor([[1, -100, -100]]))
    with pytest.raises(DataError, match="no response token"):
        compute_fim(llama.model, llama.spaces, [silent], structure="block")
    with pytest.raises(DataError, match="no batches"):
        compute_fim(llama.model, llama.spaces, [], structure="block")
    with pytest.raises(FisherError, match="generator"):
        compute_fim(llama.model, llama.spaces, [oracle.pad(llama.samples)], estimator="sampled")
    with pytest.raises(FisherError, match="unknown estimator 'sample'"):
        compute_fim(llama.model, llama.spaces, [oracle.pad(llama.samples)], estimator="sample")  # type: ignore[arg-type]
    with pytest.raises(FisherError, match="unknown Fisher structure 'blok'"):
        compute_fim(llama.model, llama.spaces, [oracle.pad(llama.samples)], structure="blok")
    with pytest.raises(FisherError, match="no module"):
        compute_fim(llama.model, llama.spaces, [oracle.pad(llama.samples)], modules=["elsewhere"])
    with pytest.raises(DataError, match="padding"):
        Batch(ids, torch.tensor([[1, 1, 0]]), ids)
    with pytest.raises(DataError, match="labels has shape"):
        Batch(ids, ids, ids[:, :2])


def test_progress_counts_samples(llama: Case) -> None:
    seen: list[int] = []
    llama.fisher("diagonal", progress=seen.append)
    assert seen == [3, 6, 7]


def test_a_core_space_of_another_model_is_refused(llama: Case) -> None:
    space = llama.spaces["lm_head"]
    with (
        pytest.raises(BaseModelError, match=r"module model\.norm .*weight of shape \(16,\)"),
        CoreModel(llama.model, {"model.norm": space}),
    ):
        pass
    with (
        pytest.raises(BaseModelError, match="module elsewhere: not in LlamaForCausalLM"),
        CoreModel(llama.model, {"elsewhere": space}),
    ):
        pass
    assert not any(module._forward_hooks for module in llama.model.modules())
    with CoreModel(llama.model, llama.spaces) as core_model:
        with pytest.raises(FisherError, match="module lm_head: core of shape"):
            core_model.set_point({"lm_head": torch.zeros(2, 2)})
        with pytest.raises(FisherError, match="module elsewhere: no core space"):
            core_model.set_point({"elsewhere": torch.zeros(2, 2)})
        with pytest.raises(FisherError, match="without a forward pass"):
            core_model.backward(torch.zeros(()))


def test_block_is_positive_semidefinite(case: Case) -> None:
    for layer in case.fisher("block").layers.values():
        assert isinstance(layer, BlockFisher)
        values = torch.linalg.eigvalsh(layer.dense())
        assert float(values.min()) > -1e-12 * float(values.max())
