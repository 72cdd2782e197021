"""Merging against PEFT, dense sums in float64, and ΔW added by hand."""

import ast
import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sst_merge import merging as merging_room
from sst_merge.errors import (
    AdapterError,
    BaseModelError,
    DataError,
    MergeError,
    OutputExistsError,
    SSTMergeError,
    UnknownMethodError,
)
from sst_merge.lora_utils import Adapter, BaseModelIndex, EmbeddingKind, LoraFactors
from sst_merge.merging import (
    MergeInputs,
    MergeSettings,
    merge,
    merge_in_memory,
    merge_to_folder,
    merged_modules,
    module_generator,
    plan_merge,
)
from sst_merge.methods import Layer, MergeMethod, MergeProblem, MethodOptions, Prepared, merge_method

SHAPES = {"model.layers.10.a": (12, 9), "model.layers.2.a": (12, 9), "model.layers.2.b": (7, 15)}

# What PEFT can put into an adapter of one architecture.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"r": 3, "lora_alpha": 8}),
    "rslora": ("llama", {"r": 4, "lora_alpha": 8, "use_rslora": True}),
    "patterns": ("mistral", {"r": 3, "rank_pattern": {"k_proj": 5}, "alpha_pattern": {"o_proj": 7}}),
    "conv1d": ("gpt2", {"r": 3, "fan_in_fan_out": True}),
    "bias": ("distilbert", {"r": 3, "lora_bias": True}),
    "embedding": ("llama", {"r": 3, "embedding": True}),
}


def variant(
    build: Any, name: str, folder: Path, *, seed: int, role: str = "utility", weight: float = 1.0, **change: Any
) -> Adapter:
    architecture, options = VARIANTS[name]
    options = {**options, **change}
    known = build.ARCHITECTURES[architecture]
    targets = [known.embedding, *known.linears] if options.pop("embedding", False) else list(known.linears)
    folder = build.adapter_folder(build.tiny_model(architecture), folder, seed=seed, targets=targets, **options)
    return Adapter.load(folder, role=role, weight=weight, drop_modules_to_save=True)  # type: ignore[arg-type]


def dense_sum(adapters: list[Adapter], module: str) -> Tensor:
    """Σ w ΔW with its bias column, in float64."""
    total: Tensor | None = None
    for adapter in adapters:
        if module in adapter:
            factors = adapter.factors(module, dtype=torch.float64)
            delta = factors.b @ factors.a
            if any(module in other and other.has_bias(module) for other in adapters) and not factors.bias:
                delta = torch.cat([delta, delta.new_zeros(delta.shape[0], 1)], dim=1)
            total = adapter.weight * delta if total is None else total + adapter.weight * delta
    assert total is not None
    return total


def whole(adapter: Adapter, module: str) -> Tensor:
    factors = adapter.factors(module, dtype=torch.float64)
    return factors.b @ factors.a


# --- the right ΔW -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_identity_of_every_lora_variant(build: Any, relative_error: Any, name: str, tmp_path: Path) -> None:
    adapter = variant(build, name, tmp_path / "a", seed=3)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        result = merge([adapter], compute_dtype=dtype)
        assert result.adapter.modules == adapter.modules
        for module in adapter.modules:
            assert relative_error(whole(result.adapter, module), dense_sum([adapter], module)) <= tolerance
            assert result.adapter.kind(module) == adapter.kind(module)
            assert result.adapter.has_bias(module) == adapter.has_bias(module)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_base_and_merged_adapter_are_those_of_deltas_added_by_hand(
    build: Any, relative_error: Any, name: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    one = variant(build, name, tmp_path / "one", seed=3)
    two = variant(build, name, tmp_path / "two", seed=4, weight=-0.6)
    folder = merge([one, two]).save(tmp_path / "merged")
    base = build.tiny_model(VARIANTS[name][0])
    scaled = Adapter.from_factors(
        {m: LoraFactors(-0.6 * f.b, f.a, f.kind, f.bias) for m in two.modules for f in [two.factors(m)]}, name="two"
    )
    expected = build.logits(build.add_deltas(build.add_deltas(base, one), scaled))
    found = build.logits(PeftModel.from_pretrained(build.tiny_model(VARIANTS[name][0]), folder).eval())
    assert relative_error(found, expected) <= 1e-5
    assert relative_error(build.logits(base), expected) > 1e-3


def test_sum_over_different_ranks_missing_modules_signs_and_zeros(build: Any, relative_error: Any) -> None:
    one = build.random_adapter(SHAPES, name="one", rank=3, seed=1, weight=1.5)
    two = build.random_adapter({"model.layers.2.b": (7, 15)}, name="two", rank=7, seed=2, weight=-0.25, role="safety")
    nothing = Adapter.from_factors(
        {m: LoraFactors(f.b * 0, f.a) for m in one.modules for f in [one.factors(m)]}, name="nothing"
    )
    result = merge([one, two, nothing], compute_dtype=torch.float64)
    assert result.adapter.modules == ("model.layers.2.a", "model.layers.2.b", "model.layers.10.a")
    for module in SHAPES:
        assert relative_error(result.adapter.delta(module), dense_sum([one, two], module)) <= 1e-12
    # Directions that only the zero adapter has are not stored.
    assert [result.adapter.rank(m) for m in result.adapter.modules] == [3, 7, 3]


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv_m"])
def test_factors_that_are_still_being_trained_merge_as_they_are(method: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(8, 2, generator=generator), torch.randn(2, 6, generator=generator)) for _ in range(2)]
    plain, trained = (
        [
            Adapter.from_factors({"layer": LoraFactors(*(t.clone().requires_grad_(grad) for t in pair))}, name=name)
            for name, pair in zip("ab", pairs, strict=True)
        ]
        for grad in (False, True)
    )
    found = merge(trained, method)
    found.save(tmp_path / "merged")
    assert not found.adapter.factors("layer").b.requires_grad
    assert torch.equal(found.adapter.delta("layer"), merge(plain, method).adapter.delta("layer"))


def test_one_adapter_with_bias_and_one_without(build: Any, relative_error: Any, tmp_path: Path) -> None:
    biased = variant(build, "bias", tmp_path / "biased", seed=1)
    plain = variant(build, "bias", tmp_path / "plain", seed=2, weight=0.5, lora_bias=False, r=5)
    result = merge([plain, biased], compute_dtype=torch.float64)
    for module in result.adapter.modules:
        assert result.adapter.has_bias(module)
        assert relative_error(whole(result.adapter, module), dense_sum([plain, biased], module)) <= 1e-12


@pytest.mark.parametrize(
    "how",
    ["cat", pytest.param("svd", marks=pytest.mark.newer("peft", "0.21", "its svd comes out twice as strong"))],
)
def test_peft_agrees(build: Any, relative_error: Any, how: str, tmp_path: Path) -> None:
    from peft import PeftModel

    weights = [0.7, 0.4]
    folders = []
    for index, seed in enumerate((1, 2)):
        folder = tmp_path / f"adapter{index}"
        folders.append(
            build.adapter_folder(build.tiny_model("llama"), folder, seed=seed, targets=["q_proj", "down_proj"], r=3)
        )
    peft = PeftModel.from_pretrained(build.tiny_model("llama"), folders[0], adapter_name="adapter0")
    peft.load_adapter(folders[1], adapter_name="adapter1")
    rank = {} if how == "cat" else {"svd_rank": 6}
    peft.add_weighted_adapter(["adapter0", "adapter1"], weights, "both", combination_type=how, **rank)
    ours = merge([Adapter.load(f, weight=w) for f, w in zip(folders, weights, strict=True)]).adapter
    for module in ours.modules:
        layer = peft.base_model.model.get_submodule(module)
        assert relative_error(ours.delta(module), layer.get_delta_weight("both")) <= 1e-5


def test_float32_is_rounded_once_however_wide_the_layer(build: Any, relative_error: Any) -> None:
    wide = Adapter.from_factors({"m": build.random_factors(1024, 1536, 16, dtype=torch.float32)}, name="wide")
    merged = merge([wide]).adapter
    assert merged.factors("m").b.dtype == torch.float32
    # Factorising in float32 already loses five times as much.
    assert relative_error(merged.delta("m", dtype=torch.float64), wide.delta("m", dtype=torch.float64)) <= 1e-7


def test_badly_scaled_factors_keep_six_digits(build: Any, relative_error: Any) -> None:
    plain = build.random_factors(40, 30, 8)
    b, a = plain.b, plain.a
    scale = torch.logspace(-4, 4, 8, dtype=torch.float64)
    adapter = Adapter.from_factors({"m": LoraFactors(b * scale, a / scale[:, None])}, name="skewed")
    assert relative_error(merge([adapter]).adapter.delta("m"), b @ a) <= 1e-6


# --- rank, energy -----------------------------------------------------------------------------------------------------


def test_rank_cuts_like_the_best_approximation(build: Any, relative_error: Any) -> None:
    inputs = [build.random_adapter(SHAPES, name=f"a{i}", rank=3, seed=i) for i in range(2)]
    result = merge(inputs, rank=2, compute_dtype=torch.float64)
    for module in SHAPES:
        dense = dense_sum(inputs, module).numpy()
        u, s, vt = np.linalg.svd(dense)
        best = torch.from_numpy((u[:, :2] * s[:2]) @ vt[:2])
        assert relative_error(result.adapter.delta(module), best) <= 1e-10
        figures = result.report.modules[module]
        assert figures.rank == 2
        assert figures.kept_energy == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
        assert figures.norm == pytest.approx(np.linalg.norm(s[:2]))
        share = s[s > 1e-9] / s.sum()
        assert figures.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert any("lost more than 1 %" in warning for warning in result.report.warnings)


def test_energy_keeps_the_fewest_values_that_hold_it(build: Any) -> None:
    inputs = [build.random_adapter(SHAPES, name=f"a{i}", rank=4, seed=i) for i in range(2)]
    result = merge(inputs, energy=0.8, compute_dtype=torch.float64)
    for module in SHAPES:
        squares = np.linalg.svd(dense_sum(inputs, module).numpy(), compute_uv=False) ** 2
        share = squares.cumsum() / squares.sum()
        assert result.report.modules[module].rank == int((share < 0.8).sum()) + 1


@pytest.mark.parametrize("rank", [0, -1, 7])
def test_rank_that_does_not_fit(build: Any, rank: int) -> None:
    inputs = [build.random_adapter(SHAPES, name=f"a{i}", rank=3, seed=i) for i in range(2)]
    with pytest.raises(MergeError, match=rf"rank = {rank} does not fit.*at most rank 6"):
        merge(inputs, rank=rank)


# --- methods on ΔW, prepared methods ----------------------------------------------------------------------------------


class _Options(MethodOptions):
    strength: float = 1.0


@merge_method(name="largest", summary="entry of largest size", paper="test", options=_Options, domain="delta")
def _largest(layer: Layer, options: _Options, state: None) -> Tensor:
    stacked = torch.stack(tuple(layer.patches))
    return options.strength * stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]


def _prepare(problem: MergeProblem, options: _Options) -> Prepared:
    cores = {m: 2 * space.coordinates(problem.adapters[0].factors(m)) for m, space in problem.spaces.items()}
    return Prepared(cores, {"modules_seen": list(problem.spaces)}, ("a word of warning",))


@merge_method(name="doubled", summary="twice the first", paper="test", options=_Options, prepare=_prepare)
def _doubled(layer: Layer, options: _Options, state: dict[str, Tensor]) -> Tensor:
    return state[layer.module]


@pytest.fixture
def extra_methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found: dict[str, MergeMethod] = {method.name: method for method in (_largest, _doubled)}
    monkeypatch.setattr("sst_merge.merging.plan.get_method", found.__getitem__)
    yield


@pytest.mark.usefixtures("extra_methods")
def test_method_on_whole_updates_sees_one_layer_and_is_compressed_exactly(build: Any, relative_error: Any) -> None:
    one = build.random_adapter(SHAPES, name="one", rank=2, seed=1)
    two = build.random_adapter({"model.layers.2.b": (7, 15)}, name="two", rank=1, seed=2)
    result = merge([one, two], "largest", strength=3.0, compute_dtype=torch.float64)
    x, y = one.delta("model.layers.2.b"), two.delta("model.layers.2.b")
    expected = 3.0 * torch.where(x.abs() >= y.abs(), x, y)
    assert relative_error(result.adapter.delta("model.layers.2.b"), expected) <= 1e-12
    figures = result.report.modules["model.layers.2.b"]
    assert figures.core_shape == (7, 15)
    assert figures.rank == np.linalg.matrix_rank(expected.numpy()) == 7
    assert result.report.modules["model.layers.2.a"].rank == 2
    squares = np.linalg.svd(expected.numpy(), compute_uv=False) ** 2
    share = squares.cumsum() / squares.sum()
    cut = merge([one, two], "largest", strength=3.0, rank=3, compute_dtype=torch.float64)
    assert cut.report.modules["model.layers.2.b"].kept_energy == pytest.approx(share[2])
    kept = merge([one, two], "largest", strength=3.0, energy=0.9, compute_dtype=torch.float64)
    assert kept.report.modules["model.layers.2.b"].rank == int((share < 0.9).sum()) + 1 < 7


@pytest.mark.usefixtures("extra_methods")
def test_method_on_whole_updates_with_a_bias_column(build: Any, relative_error: Any) -> None:
    plain = Adapter.from_factors({"m": build.random_factors(6, 5, 2, seed=1)}, name="plain")
    biased = Adapter.from_factors({"m": build.random_factors(6, 5, 2, seed=2, bias=True)}, name="biased")
    result = merge([plain, biased], "largest", compute_dtype=torch.float64)
    x = torch.cat([plain.delta("m"), torch.zeros(6, 1).double()], dim=1)
    y = whole(biased, "m")
    assert relative_error(whole(result.adapter, "m"), torch.where(x.abs() >= y.abs(), x, y)) <= 1e-12


@pytest.mark.usefixtures("extra_methods")
def test_prepared_method_gets_the_spaces_that_its_layers_use(build: Any, relative_error: Any) -> None:
    one = build.random_adapter(SHAPES, name="one", rank=2, seed=1)
    two = build.random_adapter(SHAPES, name="two", rank=2, seed=2)
    result = merge([one, two], "doubled", compute_dtype=torch.float64)
    for module in SHAPES:
        assert relative_error(result.adapter.delta(module), 2 * one.delta(module)) <= 1e-12
    assert result.report.method_report == {"modules_seen": list(result.adapter.modules)}
    assert "a word of warning" in result.report.warnings


def test_generator_depends_on_seed_and_module_only() -> None:
    draw = {key: torch.rand(4, generator=module_generator(*key)).tolist() for key in ((0, "a"), (1, "a"), (0, "b"))}
    assert len({tuple(values) for values in draw.values()}) == 3
    digest = int.from_bytes(hashlib.sha256(b"0/a").digest()[:8], "big") >> 1
    assert torch.rand(4, generator=torch.Generator().manual_seed(digest)).tolist() == draw[0, "a"]


def test_modules_are_streamed_one_at_a_time(build: Any) -> None:
    inputs = [build.random_adapter(SHAPES, name="a", seed=1)]
    seen: list[tuple[str, int, int]] = []
    stream = merged_modules(plan_merge(inputs), progress=lambda *step: seen.append(step))
    assert next(stream).name == "model.layers.2.a"
    assert seen == []
    assert [merged.name for merged in stream] == ["model.layers.2.b", "model.layers.10.a"]
    assert seen == [("merge", 1, 3), ("merge", 2, 3), ("merge", 3, 3)]


# --- refusals before any work -----------------------------------------------------------------------------------------


def test_unknown_method_role_names_and_types(build: Any, tmp_path: Path) -> None:
    one = build.random_adapter(SHAPES, name="one")
    with pytest.raises(UnknownMethodError, match=r"unknown merge method 'ta'; available: .*task_arithmetic"):
        merge([one], "ta")
    with pytest.raises(AdapterError, match="role is 'harmless'"):
        build.random_adapter(SHAPES, name="x", role="harmless")
    with pytest.raises(MergeError, match="two adapters are called 'one'"):
        merge([one, one])
    with pytest.raises(MergeError, match="no adapters to merge"):
        merge([])
    with pytest.raises(MergeError, match=r"adapters\[0\] is a PosixPath, expected an Adapter"):
        merge([tmp_path])  # type: ignore[list-item]
    with pytest.raises(MergeError, match="needs at least one adapter of role 'safety'; found only utility"):
        merge([one], "random_subspace")
    with pytest.raises(
        DataError, match=r"give what is missing: the base .*; harmful prompts .*; prompts of your skills"
    ):
        merge([one], "sst")
    with pytest.raises(MergeError, match=r"compute_dtype = torch.bfloat16"):
        merge([one], compute_dtype=torch.bfloat16)
    with pytest.raises(MergeError, match=r"energy = 1.5 does not fit"):
        merge([one], energy=1.5)


def test_nan_is_found_before_the_merge(build: Any) -> None:
    factors = build.random_factors(4, 5, 2)
    factors.a[1, 2] = float("nan")
    with pytest.raises(AdapterError, match=r"adapter 'broken': A of module 'm' holds 1 NaN or Inf"):
        merge([Adapter.from_factors({"m": factors}, name="broken")])


def test_adapters_that_do_not_belong_together(build: Any) -> None:
    one = Adapter.from_factors({"m": build.random_factors(4, 5, 2)}, name="one", base_model="base/a")
    two = Adapter.from_factors({"m": build.random_factors(4, 5, 2)}, name="two", base_model="base/b")
    wide = Adapter.from_factors({"m": build.random_factors(4, 6, 2)}, name="wide")
    with pytest.raises(AdapterError, match="expected one base"):
        merge([one, two])
    assert merge([one, two], assume_same_base=True).adapter.base_model == "base/a"
    with pytest.raises(AdapterError, match=r"\(4, 5\).*'one'.*\(4, 6\).*'wide'"):
        merge([one, wide])


def test_module_that_the_base_does_not_have(build: Any) -> None:
    base = BaseModelIndex.of(build.tiny_model("llama"))
    stray = build.random_adapter({"model.layers.0.self_attn.query": (16, 16)}, name="stray")
    with pytest.raises(BaseModelError, match=r"'model.layers.0.self_attn.query' matches no layer"):
        merge([stray], base=base)
    # A given model is checked without being asked for.
    with pytest.raises(BaseModelError, match="matches no layer"):
        merge([stray], model=build.tiny_model("llama"))


def test_embedding_beside_a_bias_is_refused_in_the_plan(build: Any) -> None:
    embedding = Adapter.from_factors({"e": LoraFactors(torch.ones(4, 1), torch.ones(1, 9), EmbeddingKind())}, name="e")
    biased = Adapter.from_factors({"m": build.random_factors(4, 5, 2, bias=True, dtype=torch.float32)}, name="b")
    with pytest.raises(MergeError, match="'e' is an embedding and module 'm' has a LoRA bias"):
        plan_merge([embedding, biased])


def test_plan_says_what_it_will_cost(build: Any) -> None:
    inputs = [build.random_adapter(SHAPES, name="one", rank=3), build.random_adapter(SHAPES, name="two", rank=5)]
    plan = plan_merge(inputs)
    assert [m.rank for m in plan.modules] == [8, 7, 8]
    numbers = 8 * (12 + 9) * 2 + 7 * (7 + 15)
    assert plan.output_bytes(torch.bfloat16, "pattern") == 2 * numbers
    assert plan.output_bytes(torch.bfloat16) == 2 * (numbers + 7 + 15)
    assert merge(inputs).adapter.rank("model.layers.2.a") == 8
    assert plan_merge(inputs, settings=MergeSettings(rank=4)).output_rank == 4
    text = plan.describe()
    for part in (
        "task_arithmetic",
        "one: role utility, weight 1, 3 modules, rank 3",
        "rank at most 8",
        "no base model",
    ):
        assert part in text


def test_a_plan_that_was_promised_data_is_not_carried_out_without_them(build: Any) -> None:
    pair = [build.random_adapter(SHAPES, name="one"), build.random_adapter(SHAPES, name="two")]
    plan = plan_merge(pair, "regmean", given=("model", "harm", "benign"))
    with pytest.raises(DataError, match="'regmean' reads calibration data; give what is missing: the base"):
        merge_in_memory(plan)


def test_every_keyword_of_merge_reaches_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """``merge`` is the one door with all keywords: none is lost, and none has another default than its record."""
    parameters = inspect.signature(merge).parameters
    defaults = {**vars(MergeInputs()), **vars(MergeSettings())}
    del defaults["notes"]  # of those who read the data, which is done before
    own = {"adapters", "method", "base", "progress", "workers", "options"}
    assert set(parameters) == own | set(defaults)
    assert all(parameters[name].default == default for name, default in defaults.items())

    given: dict[str, Any] = {"seed": 5, "rank": 2, "energy": 0.5, "compute_dtype": torch.float64, "device": "meta"}
    given |= {"assume_same_base": True, "model": object(), "harm": ["h"], "benign": ["b"], "adapter_benign": {"a": []}}
    given |= {"base_weights": object(), "aligned_weights": object(), "modules_to_save_from": "one", "refuses": max}
    assert set(given) == set(defaults)
    seen: dict[str, Any] = {}
    monkeypatch.setattr("sst_merge.merging.api.plan_merge", lambda *_, **keywords: seen.update(keywords))
    monkeypatch.setattr(
        "sst_merge.merging.api.merge_in_memory", lambda _, inputs, **how: seen.update(vars(inputs) | how)
    )
    merge([], base=object(), strength=3.0, workers=3, **given)  # type: ignore[arg-type]
    assert seen["workers"] == 3
    assert seen["options"] == {"strength": 3.0}
    assert {**seen, **vars(seen["settings"])}.items() >= given.items()


# --- what is written --------------------------------------------------------------------------------------------------


def test_folder_and_memory_give_the_same_bytes(build: Any, tmp_path: Path) -> None:
    inputs = [
        variant(build, "patterns", tmp_path / "one", seed=1),
        variant(build, "patterns", tmp_path / "two", seed=2),
    ]
    texts = {"NOTE.md": "fixed", "count.txt": lambda report: str(len(report["modules"]))}
    merge(inputs, seed=5).save(tmp_path / "a", dtype=torch.bfloat16, extra_files=texts)
    plan = plan_merge(inputs, settings=MergeSettings(seed=5))
    report = merge_to_folder(plan, tmp_path / "b", dtype=torch.bfloat16, extra_files=texts)
    names = {"adapter_config.json", "adapter_model.safetensors", "merge_report.json", "NOTE.md", "count.txt"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {file.name for file in (tmp_path / "a").iterdir()} == names
    assert (tmp_path / "a" / "count.txt").read_text() == str(len(report.modules))


def test_same_inputs_in_another_place_give_the_same_bytes(build: Any, tmp_path: Path) -> None:
    for place in ("here", "there"):
        inputs = [variant(build, "plain", tmp_path / place / name, seed=i) for i, name in enumerate(("one", "two"))]
        merge(inputs).save(tmp_path / place / "merged")
    for name in ("adapter_config.json", "adapter_model.safetensors", "merge_report.json"):
        assert (tmp_path / "here" / "merged" / name).read_bytes() == (tmp_path / "there" / "merged" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "here" / "merged" / "merge_report.json").read_text()


def test_report_names_inputs_outputs_and_versions(build: Any, tmp_path: Path) -> None:
    one = variant(build, "plain", tmp_path / "one", seed=1, role="safety", weight=0.5)
    result = merge([one], seed=9, strength=2.0)
    folder = result.save(tmp_path / "merged", dtype=torch.float16)
    report = json.loads((folder / "merge_report.json").read_text())
    assert report["method"] == "task_arithmetic"
    assert report["options"] == {"strength": 2.0, "safety_strength": 1.0, "combine": "add"}
    assert report["seed"] == 9
    (recorded,) = report["adapters"]
    assert (recorded["name"], recorded["role"], recorded["weight"], recorded["path"]) == ("one", "safety", 0.5, "one")
    for name, digest in recorded["files"].items():
        assert digest == hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest()
    assert set(recorded["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    for name, digest in report["output"]["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert (report["output"]["dtype"], report["output"]["rank"]) == ("float16", 3)
    assert report["versions"]["torch"] == str(torch.__version__)
    assert set(report["modules"]) == set(one.modules)
    assert set(result.timings) == {"check", "prepare", "merge"}
    assert "timings" not in report


def test_output_is_all_or_nothing(build: Any, tmp_path: Path) -> None:
    inputs = [variant(build, "plain", tmp_path / "one", seed=1)]
    plan, doubled = plan_merge(inputs), plan_merge(inputs, options={"strength": 2.0})

    def fail(report: object) -> str:
        raise SSTMergeError("page failed")

    with pytest.raises(SSTMergeError, match="page failed"):
        merge_to_folder(plan, tmp_path / "out", extra_files={"page.html": fail})
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    merge_to_folder(plan, tmp_path / "out")
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        merge_to_folder(doubled, tmp_path / "out")
    with pytest.raises(SSTMergeError, match="page failed"):
        merge_to_folder(plan, tmp_path / "out", force=True, extra_files={"page.html": fail})
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    merge_to_folder(doubled, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before


@pytest.mark.parametrize("place", ["one", "one/inside", "."])
def test_output_may_not_share_a_folder_with_an_input(build: Any, tmp_path: Path, place: str) -> None:
    one = variant(build, "plain", tmp_path / "one", seed=1)
    with pytest.raises(MergeError, match="share a folder"):
        merge_to_folder(plan_merge([one]), tmp_path / place, force=True)
    with pytest.raises(MergeError, match="share a folder"):
        merge([one]).save(tmp_path / place, force=True)
    assert Adapter.load(tmp_path / "one").modules == one.modules


def test_extra_file_may_not_take_a_name_in_use(build: Any, tmp_path: Path) -> None:
    one = build.random_adapter(SHAPES, name="one")
    for name in ("merge_report.json", "adapter_config.json", "../x"):
        with pytest.raises(MergeError, match="extra file"):
            merge([one]).save(tmp_path / "out", extra_files={name: ""})
    assert list(tmp_path.iterdir()) == []


def test_overflow_of_the_written_type_is_refused(tmp_path: Path) -> None:
    huge = Adapter.from_factors({"m": LoraFactors(torch.full((3, 1), 1e9), torch.full((1, 3), 1e9))}, name="huge")
    with pytest.raises(AdapterError, match=r"more than torch.float16 can hold"):
        merge([huge]).save(tmp_path / "out", dtype=torch.float16)


def test_every_public_name_of_the_room_is_found_where_type_checkers_look() -> None:
    block = next(node for node in ast.parse(inspect.getsource(merging_room)).body if isinstance(node, ast.If))
    seen = [alias.name for node in block.body for alias in getattr(node, "names", ())]
    assert sorted(seen) == sorted(merging_room.__all__)
    for name in merging_room.__all__:
        assert getattr(merging_room, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'merge_all'; it offers AdapterRecord"):
        merging_room.merge_all  # noqa: B018
