"""What every registered merge method is held to, built-in or third-party, by what it declares."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sst_merge.data_loader.batch import Batch
from sst_merge.errors import MergeError, OptionError, SSTMergeError
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import MergeResult, merge
from sst_merge.methods import MergeMethod, available_methods

SHAPES = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
    "model.layers.1.self_attn.q_proj": (16, 16),
}
ONE_MODULE = {"model.layers.0.mlp.down_proj": (16, 24)}
# Options under which a method is tried where its defaults would search for one (time, not meaning).
OPTIONS: dict[str, dict[str, object]] = {
    "sst": {"mu": 1.0},
    "ada_merging": {"steps": 3},
    "layer_interpolation": {"steps": 3},
    "calibration_only": {"steps": 3},
    "lora_soups": {"steps": 2},
    "prodistill": {"steps": 2},
}
SEEDS = 40

METHODS = list(available_methods().values())
methods = pytest.mark.parametrize("method", METHODS, ids=[m.name for m in METHODS])
deterministic_methods = pytest.mark.parametrize(
    "method",
    [m for m in METHODS if m.promises.deterministic],
    ids=[m.name for m in METHODS if m.promises.deterministic],
)
Deltas = dict[str, Tensor]


@pytest.fixture(scope="module")
def model(build: Any) -> torch.nn.Module:
    return build.tiny_model("llama", dtype=torch.float64)


def batches(build: Any, seed: int, n: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        ids = torch.randint(0, build.VOCABULARY, (4, 8), generator=generator)
        labels = ids.clone()
        labels[:, :4] = -100
        found.append(Batch(ids, torch.ones_like(ids), labels))
    return found


def run(
    build: Any, method: MergeMethod, adapters: list[Adapter], model: torch.nn.Module, **more: object
) -> MergeResult:
    settings: dict[str, object] = {"compute_dtype": torch.float64, **OPTIONS.get(method.name, {}), **more}
    if method.needs.data or method.needs.base:
        own = {a.name: batches(build, sum(a.name.encode()), 1) for a in adapters}
        settings |= {"model": model, "harm": batches(build, 1), "benign": batches(build, 2), "adapter_benign": own}
    return merge(adapters, method.name, **settings)  # type: ignore[arg-type]


def deltas(result: MergeResult) -> Deltas:
    return {module: result.adapter.delta(module, dtype=torch.float64) for module in result.adapter.modules}


def flat(found: Deltas) -> Tensor:
    return torch.cat([found[module].flatten() for module in sorted(found)])


def assert_same(found: Deltas, expected: Deltas, tolerance: float = 1e-8) -> None:
    assert found.keys() == expected.keys()
    assert float((flat(found) - flat(expected)).norm()) <= tolerance * float(flat(expected).norm())


def mean_over_seeds(
    build: Any, method: MergeMethod, adapters: list[Adapter], model: torch.nn.Module
) -> tuple[Tensor, float]:
    """Mean ΔW and the squared standard error of it, Σ over entries."""
    drawn = torch.stack([flat(deltas(run(build, method, adapters, model, seed=seed))) for seed in range(SEEDS)])
    return drawn.mean(0), float(drawn.var(0).sum() / SEEDS)


def assert_equivalent(
    build: Any, method: MergeMethod, one: list[Adapter], other: list[Adapter], model: torch.nn.Module
) -> None:
    """Equal results; of a random method equal expectations, within four standard errors."""
    if method.promises.deterministic:
        assert_same(deltas(run(build, method, one, model)), deltas(run(build, method, other, model)))
        return
    (mean, variance), (mean_other, variance_other) = (mean_over_seeds(build, method, a, model) for a in (one, other))
    assert float((mean - mean_other).square().sum()) <= 16 * (variance + variance_other)


def adapter(
    build: Any,
    name: str,
    role: str = "utility",
    *,
    seed: int,
    rank: int = 3,
    weight: float = 1.0,
    shapes: object = SHAPES,
) -> Adapter:
    assert isinstance(shapes, dict)
    factors = {
        m: build.random_factors(*shape, rank, seed=seed + 100 * i) for i, (m, shape) in enumerate(shapes.items())
    }
    return Adapter.from_factors(factors, name=name, role=role, weight=weight, task_type="CAUSAL_LM")  # type: ignore[arg-type]


def mapped(source: Adapter, change: object) -> Adapter:
    assert callable(change)
    factors = {module: change(source.factors(module)) for module in source.modules}
    return Adapter.from_factors(factors, name=source.name, role=source.role, weight=source.weight)


def pair(build: Any, **more: object) -> list[Adapter]:
    return [adapter(build, "skill", seed=1, **more), adapter(build, "safe", "safety", seed=2, rank=2, **more)]  # type: ignore[arg-type]


@methods
def test_single_adapter_comes_back_or_is_refused(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    alone = adapter(build, "skill", seed=1)
    expected = {m: alone.delta(m) for m in alone.modules}
    if method.needs.roles - {"utility"}:
        with pytest.raises(MergeError, match="needs at least one adapter of role 'safety'"):
            run(build, method, [alone], model)
    elif method.needs.aligned_base:
        with pytest.raises(MergeError, match="needs to know what alignment changed"):
            run(build, method, [alone], model)
    elif method.promises.exact:
        assert_same(deltas(run(build, method, [alone], model)), expected, 1e-12)
        assert_same(deltas(run(build, method, [alone], model, compute_dtype=torch.float32)), expected, 1e-6)
    else:
        # Refused, or changed by the method's own rule; a method that returns it exactly must promise so.
        try:
            found = deltas(run(build, method, [alone], model))
        except SSTMergeError as error:
            assert method.name in str(error)
        else:
            assert float((flat(found) - flat(expected)).norm()) > 1e-6 * float(flat(expected).norm())


@methods
def test_a_sum_side_by_side_is_the_one_in_the_core(build: Any, method: MergeMethod) -> None:
    """What a method declares as its coefficients is what it does: with `energy` the sum goes through the core."""
    if method.coefficients is None:
        pytest.skip("is no sum with the same coefficients in every module")
    skills = [adapter(build, f"skill{i}", seed=10 + i, rank=1 + i, weight=0.5 - i) for i in range(2)]
    inputs = [*skills, adapter(build, "safe", "safety", seed=2, weight=1.5)]
    more: list[dict[str, object]] = [{}, {"combine": "interpolate", "safety_strength": 0.3}]
    for options in more if "combine" in method.options.model_fields else more[:1]:
        settings: dict[str, Any] = {"compute_dtype": torch.float64, "strength": 0.7, **options}
        added, through_core = (merge(inputs, method.name, **settings, energy=energy) for energy in (None, 1.0))
        assert_same(deltas(added), deltas(through_core), 1e-12)
        for module, figures in added.report.modules.items():
            assert figures.norm == pytest.approx(through_core.report.modules[module].norm)


@methods
def test_order_of_adapters_of_one_role_does_not_matter(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    if not method.promises.symmetric:
        pytest.skip("does not promise symmetry")
    skills = [adapter(build, f"skill{i}", seed=10 + i, rank=1 + i, weight=0.5 + i) for i in range(3)]
    safe = adapter(build, "safe", "safety", seed=2)
    one, other = (
        run(build, method, order, model) for order in ([*skills, safe], [skills[2], safe, skills[0], skills[1]])
    )
    assert_same(deltas(one), deltas(other))
    if not method.promises.deterministic:
        # What is drawn must not differ at all: a bit there turns a whole entry on or off.
        pairs = [(one.adapter.factors(m), other.adapter.factors(m)) for m in SHAPES]
        assert all(torch.equal(x.b, y.b) and torch.equal(x.a, y.a) for x, y in pairs)


@methods
def test_all_weights_times_c_is_the_result_times_c(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    if not method.promises.homogeneous:
        pytest.skip("does not promise homogeneity")
    plain = deltas(run(build, method, pair(build), model))
    scaled = deltas(run(build, method, [a.with_(weight=-2.5 * a.weight) for a in pair(build)], model))
    assert_same(scaled, {m: -2.5 * d for m, d in plain.items()}, 1e-12)


@methods
def test_factorisation_of_delta_does_not_matter(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    if not method.promises.gauge_invariant:
        pytest.skip("does not promise gauge invariance")

    def gauge(factors: LoraFactors) -> LoraFactors:
        r = torch.randn(factors.rank, factors.rank, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        return LoraFactors(factors.b @ r, torch.linalg.solve(r, factors.a), factors.kind, factors.bias)

    plain = pair(build, shapes=SHAPES if method.promises.deterministic else ONE_MODULE)
    assert_equivalent(build, method, plain, [mapped(a, gauge) for a in plain], model)


@deterministic_methods
def test_untouched_module_counts_as_zero(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    missing = "model.layers.0.mlp.down_proj"
    full, safe = adapter(build, "skill", seed=1), adapter(build, "safe", "safety", seed=2, rank=5)
    without = {m: safe.factors(m) for m in safe.modules if m != missing}
    zeros = without | {missing: LoraFactors(torch.zeros(16, 2).double(), torch.ones(2, 24).double())}
    bare, padded = (Adapter.from_factors(f, name="safe", role="safety") for f in (without, zeros))
    found = deltas(run(build, method, [full, bare], model))
    assert set(found) == set(SHAPES)
    assert_same(found, deltas(run(build, method, [full, padded], model)))


@methods
def test_sign_may_stand_in_the_weight_or_in_the_update(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    skill, safe = pair(build)
    turned = mapped(safe, lambda f: LoraFactors(-f.b, f.a)).with_(weight=0.7)
    by_weight = deltas(run(build, method, [skill, safe.with_(weight=-0.7)], model))
    by_update = deltas(run(build, method, [skill, turned], model))
    if method.promises.deterministic:
        assert_same(by_weight, by_update)
    assert all(bool(torch.isfinite(delta).all()) for delta in by_weight.values())


@methods
@pytest.mark.parametrize("case", ["zero", "twice the same", "rank above size", "tiny values", "rank-deficient"])
def test_degenerate_inputs_stay_finite(build: Any, method: MergeMethod, model: torch.nn.Module, case: str) -> None:
    skill, safe = pair(build)
    change = {
        "zero": lambda f: LoraFactors(torch.zeros_like(f.b), f.a),
        "twice the same": lambda f: f,
        "rank above size": lambda f: LoraFactors(f.b.repeat(1, 20), f.a.repeat(20, 1)),
        "tiny values": lambda f: LoraFactors(f.b * 1e-18, f.a),
        "rank-deficient": lambda f: LoraFactors(f.b[:, :1].repeat(1, f.rank), f.a),
    }[case]
    inputs = [mapped(skill, change), mapped(skill if case == "twice the same" else safe, change).with_(role="safety")]
    found = run(build, method, [inputs[0], inputs[1].with_(name="other")], model, compute_dtype=torch.float32)
    assert all(bool(torch.isfinite(delta).all()) for delta in deltas(found).values())
    if case == "zero":
        assert float(flat(deltas(found)).abs().max()) == 0.0
        assert any("zero everywhere" in warning for warning in found.report.warnings)


@methods
def test_seed_decides_and_nothing_else(build: Any, method: MergeMethod, model: torch.nn.Module, tmp_path: Path) -> None:
    folders = {}
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        folders[name] = run(build, method, pair(build), model, seed=seed).save(tmp_path / name)
    content = {name: {f.name: f.read_bytes() for f in folder.iterdir()} for name, folder in folders.items()}
    assert content["one"] == content["again"]
    weights = "adapter_model.safetensors"
    if method.promises.deterministic and not method.needs.data:
        assert content["one"][weights] == content["other"][weights]
    if not method.promises.deterministic:
        assert content["one"][weights] != content["other"][weights]


def test_random_subspace_averages_to_its_share_of_the_patch(build: Any, model: torch.nn.Module) -> None:
    skill, safe = pair(build, shapes=ONE_MODULE)
    (module,) = ONE_MODULE
    method = available_methods()["random_subspace"]
    mean, variance = mean_over_seeds(build, method, [skill, safe], model)
    # k of the 5 × 5 directions, rounded as documented.
    expected = skill.delta(module) + round(0.25 * 25) / 25 * safe.delta(module)
    assert float((mean - expected.flatten()).square().sum()) <= 16 * variance


@methods
def test_output_loads_in_peft_and_moves_the_logits_as_delta_does(
    build: Any, relative_error: Any, method: MergeMethod, model: torch.nn.Module, tmp_path: Path
) -> None:
    from peft import PeftModel

    result = run(build, method, pair(build), model)
    folder = result.save(tmp_path / "merged", dtype=torch.float32)
    base = build.tiny_model("llama")
    expected = build.logits(build.add_deltas(base, result.adapter))
    found = build.logits(PeftModel.from_pretrained(build.tiny_model("llama"), folder).eval())
    assert relative_error(found, expected) <= 1e-5
    assert relative_error(build.logits(base), expected) > 1e-3


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def of_a_type(
    request: pytest.FixtureRequest, build: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Adapter], list[Adapter]]:
    """Adapters read from files of one type, and the same numbers in float64."""
    folder, loaded, exact = tmp_path_factory.mktemp("typed"), [], []
    for item in pair(build):
        back = Adapter.load(item.save(folder / item.name, dtype=request.param), role=item.role)
        assert back.delta(back.modules[0], dtype=torch.float64).dtype == torch.float64
        wide = {m: back.factors(m, dtype=torch.float64) for m in back.modules}
        loaded.append(back)
        exact.append(Adapter.from_factors(wide, name=item.name, role=item.role))
    return loaded, exact


@methods
def test_input_types(
    build: Any, method: MergeMethod, model: torch.nn.Module, of_a_type: tuple[list[Adapter], list[Adapter]]
) -> None:
    loaded, exact = of_a_type
    assert_same(deltas(run(build, method, loaded, model)), deltas(run(build, method, exact, model)), 1e-12)


@methods
def test_inputs_are_not_changed(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    inputs = pair(build)
    before = [(f.b.clone(), f.a.clone()) for a in inputs for f in (a.factors(m) for m in a.modules)]
    weights = [p.clone() for p in model.parameters()]
    run(build, method, inputs, model)
    after = [(f.b, f.a) for a in inputs for f in (a.factors(m) for m in a.modules)]
    assert all(torch.equal(x, y) for old, new in zip(before, after, strict=True) for x, y in zip(old, new, strict=True))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


@methods
def test_bad_option_names_option_and_method(build: Any, method: MergeMethod, model: torch.nn.Module) -> None:
    with pytest.raises(OptionError, match=rf"unknown option 'no_such_option' \(method '{method.name}'"):
        run(build, method, pair(build), model, no_such_option=1)
    with pytest.raises(OptionError, match=rf"option '{method.knob}' = 'much' of method '{method.name}'"):
        run(build, method, pair(build), model, **{method.knob: "much"})


@methods
def test_declaration_is_complete(method: MergeMethod) -> None:
    reserved = inspect.signature(merge).parameters.keys() - {"options"}
    assert not reserved & set(method.options.model_fields)
    assert method.summary
    assert method.paper
    assert method.needs.roles <= {"utility", "safety"}
    json.dumps(method.options().model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("method", [m for m in METHODS if m.needs.data], ids=[m.name for m in METHODS if m.needs.data])
def test_data_method_without_data_is_refused_by_name(build: Any, method: MergeMethod) -> None:
    with pytest.raises(SSTMergeError, match=f"method '{method.name}' reads calibration data"):
        merge(pair(build), method.name)
