"""Structures, statistics files, adapters and identification: algebra against dense matrices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import peft_model, random_adapter, random_factors, tiny_model
from fisher_oracle import batched, dense_fisher, random_samples, relative, sample_gradients, with_update
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge.core_space import CoreSpace
from sst_merge.errors import DataError, FisherError
from sst_merge.fim_calculator import (
    BlockFisher,
    DiagonalFisher,
    Fisher,
    KroneckerFisher,
    LayerFisher,
    SampleGradients,
    auto_structure,
    build_spaces,
    compute_fim,
    compute_fim_benign,
    compute_fim_harm,
    fingerprint,
    lora_gradient_variance_approximation,
    point_cores,
    point_digest,
    restrict_spaces,
    vila_parameter_identification,
)
from sst_merge.lora_utils import Adapter

SHAPES = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
    "model.layers.1.mlp.up_proj": (24, 16),
}
STRUCTURES = ["diagonal", "kronecker", "block", "lowrank"]


def make_layer(structure: str, rows: Tensor) -> LayerFisher:
    """An operator from given gradients (N, p, q); for Kronecker each row of each gradient counts as a token."""
    count = len(rows)
    if structure == "diagonal":
        return DiagonalFisher(samples=count, gradient_sum=rows.sum(0), square_sum=rows.square().sum(0))
    if structure == "kronecker":
        left, right = rows.transpose(1, 2).flatten(0, 1), rows.flatten(0, 1)
        return KroneckerFisher(
            samples=count, tokens=3 * count, gradient_outer=left.T @ left, input_outer=right.T @ right
        )
    if structure == "block":
        flat = rows.flatten(1)
        return BlockFisher(samples=count, outer=flat.T @ flat, core_shape=(rows.shape[1], rows.shape[2]))
    return SampleGradients(samples=count, rows=rows)


def make_rows(*, seed: int = 0, count: int = 5, shape: tuple[int, int] = (4, 3)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.0 + torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("structure", STRUCTURES)
class TestStructures:
    """Every operator agrees with its own dense matrix, and the dense matrix is what it should be."""

    def test_products_agree_with_the_dense_matrix(self, structure: str) -> None:
        layer = make_layer(structure, make_rows()).scaled(2.5)
        dense = layer.dense()
        cores = make_rows(seed=1, count=6)
        assert layer.shape == (4, 3)
        assert relative(layer.matvec(cores).flatten(1), cores.flatten(1) @ dense.T) < 1e-12
        assert relative(layer.matvec(cores[0]).flatten(), dense @ cores[0].flatten()) < 1e-12
        assert relative(layer.diagonal().flatten(), dense.diagonal()) < 1e-12
        assert layer.trace() == pytest.approx(float(dense.trace()))
        assert float(torch.linalg.eigvalsh(dense).min()) > -1e-12 * layer.trace()

    def test_addition_pools_the_samples(self, structure: str) -> None:
        rows = make_rows(count=7)
        both = make_layer(structure, rows[:3]) + make_layer(structure, rows[3:])
        assert both.samples == 7
        assert relative(both.dense(), make_layer(structure, rows).dense()) < 1e-12

    def test_a_weight_scales_and_guards_addition(self, structure: str) -> None:
        layer = make_layer(structure, make_rows())
        assert relative(layer.scaled(3.0).scaled(0.5).dense(), 1.5 * layer.dense()) < 1e-12
        with pytest.raises(FisherError, match="weights"):
            layer + layer.scaled(2.0)
        assert relative((layer.scaled(2.0) + layer.scaled(2.0)).dense(), 2 * layer.dense()) < 1e-12
        for wrong in (0.0, -1.0, float("inf"), float("nan")):
            with pytest.raises(FisherError, match="weight"):
                layer.scaled(wrong)

    def test_refusals(self, structure: str) -> None:
        rows = make_rows()
        layer = make_layer(structure, rows)
        other = make_layer("block" if structure == "diagonal" else "diagonal", rows)
        with pytest.raises(FisherError, match="cannot add a"):
            layer + other  # type: ignore[operator]
        with pytest.raises(FisherError, match="different core spaces"):
            layer + make_layer(structure, rows[:, :2])
        with pytest.raises(FisherError, match=r"acts on \(\.\.\., 4, 3\)"):
            layer.matvec(torch.zeros(3, 4))
        with pytest.raises(FisherError, match="NaN or Inf"):
            make_layer(structure, rows / 0.0)
        with pytest.raises(FisherError, match=r"0 samples|expected"):
            make_layer(structure, rows[:0])


def test_dense_matrices_are_those_of_the_formulas() -> None:
    rows = make_rows()
    dense = dense_fisher(rows)
    assert relative(make_layer("block", rows).dense(), dense) < 1e-12
    assert relative(make_layer("lowrank", rows).dense(), dense) < 1e-12
    assert relative(make_layer("diagonal", rows).dense(), torch.diag(dense.diagonal())) < 1e-12
    kronecker = make_layer("kronecker", rows)
    assert isinstance(kronecker, KroneckerFisher)
    core = make_rows(seed=2, count=1)[0]
    expected = kronecker.gradient_outer @ core @ kronecker.input_outer.T / (5 * 15)
    assert relative(kronecker.matvec(core), expected) < 1e-12
    factors = torch.kron(kronecker.grad_factor, kronecker.input_factor)
    assert relative((factors @ core.flatten()).reshape(4, 3), expected) < 1e-12


@pytest.mark.parametrize("structure", ["diagonal", "lowrank"])
def test_variance_of_constant_gradients_is_zero(structure: str) -> None:
    constant = make_layer(structure, make_rows(count=1).expand(6, 4, 3).contiguous())
    assert isinstance(constant, DiagonalFisher | SampleGradients)
    assert 0.0 <= float(constant.variance().max()) < 1e-14
    varied = make_layer(structure, make_rows()).scaled(2.0)
    assert isinstance(varied, DiagonalFisher | SampleGradients)
    assert relative(varied.variance(), 2 * make_rows().var(0, correction=0)) < 1e-12


def test_matrices_that_are_no_sums_of_outer_products_are_refused() -> None:
    skewed = torch.eye(6, dtype=torch.float64)
    skewed[0, 1] = 0.5
    with pytest.raises(FisherError, match="outer is not symmetric"):
        BlockFisher(samples=1, outer=skewed, core_shape=(3, 2))
    with pytest.raises(FisherError, match="negative diagonal"):
        KroneckerFisher(samples=1, tokens=1, gradient_outer=-torch.eye(3), input_outer=torch.eye(2))
    with pytest.raises(FisherError, match="square_sum is negative"):
        DiagonalFisher(samples=1, gradient_sum=torch.zeros(2, 2), square_sum=-torch.ones(2, 2))
    with pytest.raises(FisherError, match="does not act on cores"):
        BlockFisher(samples=1, outer=torch.eye(6), core_shape=(2, 2))


def make_adapters() -> list[Adapter]:
    """Two skills and a safety adapter over different modules of the tiny Llama, with weights."""
    names = list(SHAPES)
    return [
        random_adapter(SHAPES, name="code", rank=2, seed=1, weight=0.1),
        random_adapter({names[0]: SHAPES[names[0]]}, name="maths", rank=1, seed=2, weight=0.2),
        random_adapter({n: SHAPES[n] for n in names[1:]}, name="safety", rank=1, seed=3, role="safety", weight=0.3),
    ]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def spaces() -> dict[str, CoreSpace]:
    return build_spaces(make_adapters(), dtype=torch.float64)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_two_files_add_to_one_run(model: Any, spaces: dict[str, CoreSpace], structure: str, tmp_path: Path) -> None:
    samples = random_samples(6)
    halves = []
    for index, half in enumerate((samples[:2], samples[2:])):
        path = tmp_path / f"{index}.safetensors"
        found = compute_fim(model, spaces, batched(half, 2), structure=structure).scaled(0.5)
        found.save(path)
        halves.append(Fisher.load(path))
        for name, layer in found.layers.items():
            assert torch.equal(halves[-1].layers[name].dense(), layer.dense())
    whole = compute_fim(model, spaces, batched(samples, 3), structure=structure).scaled(0.5)
    both = halves[0] + halves[1]
    assert (both.samples, both.structure, both.fingerprint, both.origin) == (
        6,
        structure,
        whole.fingerprint,
        whole.origin,
    )
    for name, layer in whole.layers.items():
        assert relative(both.layers[name].dense(), layer.dense()) < 1e-12
    assert both.trace() == pytest.approx(sum(float(layer.dense().trace()) for layer in whole.layers.values()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_statistics_that_do_not_belong_together_do_not_add(model: Any, spaces: dict[str, CoreSpace]) -> None:
    batches = batched(random_samples(3), 3)
    fisher = compute_fim(model, spaces, batches, structure="block", estimator="empirical")
    others = build_spaces(make_adapters()[:1], dtype=torch.float64)
    assert set(others) == set(spaces)
    with pytest.raises(FisherError, match="different core spaces"):
        fisher + compute_fim(model, others, batches, structure="block")
    with pytest.raises(FisherError, match="diagonal"):
        fisher + compute_fim(model, spaces, batches, structure="diagonal")
    point = {name: torch.ones(space.shape) for name, space in spaces.items()}
    with pytest.raises(FisherError, match="empirical@"):
        fisher + compute_fim(model, spaces, batches, structure="block", point=point, estimator="empirical")
    with pytest.raises(FisherError, match="weights"):
        fisher + fisher.scaled(2.0)
    with pytest.raises(FisherError, match="has no Fisher"):
        fisher.matvec({"elsewhere": torch.zeros(2, 2)})


def test_fingerprint_sees_every_basis(spaces: dict[str, CoreSpace]) -> None:
    assert fingerprint(dict(reversed(list(spaces.items())))) == fingerprint(spaces)
    seen = {fingerprint(spaces)}
    for name, space in spaces.items():
        for left, right in ((-space.left, space.right), (space.left, space.right.flip(1))):
            seen.add(fingerprint({**spaces, name: CoreSpace(left, right)}))
    assert len(seen) == 1 + 2 * len(spaces)


def test_names_of_spaces_and_points_survive_the_rounding_of_another_machine(spaces: dict[str, CoreSpace]) -> None:
    """Bases that differ in float32's last digits mean the same updates; a turn by 1 % of one column does not."""
    generator = torch.Generator().manual_seed(0)

    def noisy(matrix: Tensor, size: float) -> Tensor:
        return matrix + size * torch.randn(matrix.shape, generator=generator, dtype=matrix.dtype)

    def changed(size: float) -> dict[str, CoreSpace]:
        return {n: CoreSpace(noisy(s.left, size), noisy(s.right, size), s.kind, s.bias) for n, s in spaces.items()}

    assert fingerprint(changed(1e-9)) == fingerprint({
        n: CoreSpace(s.left.float(), s.right.float()) for n, s in spaces.items()
    })
    assert fingerprint(changed(1e-2)) != fingerprint(spaces)
    point = point_cores(make_adapters(), spaces)
    assert point_digest({n: noisy(core, 1e-9) for n, core in point.items()}) == point_digest(point)
    assert len({point_digest({n: f * core for n, core in point.items()}) for f in (1.0, 1.001, -1.0, 0.0)}) == 4
    assert point_digest(None) == point_digest({}) == point_digest({n: 0 * core for n, core in point.items()})


def test_damaged_files_are_refused(model: Any, spaces: dict[str, CoreSpace], tmp_path: Path) -> None:
    path = tmp_path / "fisher.safetensors"
    compute_fim(model, spaces, batched(random_samples(2), 2), structure="block").save(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    key = next(iter(tensors))
    save_file({**tensors, key: tensors[key] * float("nan")}, path, metadata=metadata)
    with pytest.raises(FisherError, match=r"fisher\.safetensors: module .*NaN"):
        Fisher.load(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path, metadata=metadata)
    with pytest.raises(FisherError, match=r"fisher\.safetensors: module .*outer"):
        Fisher.load(path)
    header = json.loads(metadata["sst_merge"])
    save_file(tensors, path, metadata={"sst_merge": json.dumps({**header, "format": "other"})})
    with pytest.raises(FisherError, match="format 'other'"):
        Fisher.load(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(FisherError, match="cannot be read"):
        Fisher.load(path)
    with pytest.raises(FisherError, match="cannot be read"):
        Fisher.load(tmp_path / "missing.safetensors")


def test_spaces_hold_every_adapter_exactly(spaces: dict[str, CoreSpace]) -> None:
    for adapter in make_adapters():
        for name in adapter.modules:
            factors = adapter.factors(name, dtype=torch.float64)
            lifted, _ = spaces[name].lift(spaces[name].coordinates(factors))
            assert relative(lifted.delta(), factors.delta()) < 1e-12
    only = list(SHAPES)[1]
    assert list(build_spaces(make_adapters(), modules=[only])) == [only]
    assert build_spaces(make_adapters())[only].left.dtype == torch.float32
    with pytest.raises(FisherError, match="no adapter touches module elsewhere"):
        build_spaces(make_adapters(), modules=["elsewhere"])
    with pytest.raises(FisherError, match="no adapters"):
        build_spaces([])


@pytest.mark.parametrize("point", ["merged", "own", "base"])
def test_harm_and_benign_are_taken_at_the_named_point(model: Any, spaces: dict[str, CoreSpace], point: Any) -> None:
    adapters = make_adapters()
    samples = random_samples(4)

    def by_hand(*names: str) -> dict[str, Tensor]:
        """Σ weight · Uᵀ ΔW V."""
        total = {name: torch.zeros(space.shape, dtype=torch.float64) for name, space in spaces.items()}
        for adapter in adapters:
            for module in adapter.modules if adapter.name in names else ():
                delta = adapter.factors(module, dtype=torch.float64).delta()
                total[module] += adapter.weight * spaces[module].left.T @ delta @ spaces[module].right
        return total

    everyone = ("code", "maths", "safety")
    points: dict[str, Callable[[str], dict[str, Tensor]]] = {
        "merged": lambda role: by_hand(*everyone),
        "own": lambda role: by_hand("safety") if role == "harm" else by_hand("code", "maths"),
        "base": lambda role: by_hand(),
    }
    for role, compute in (("harm", compute_fim_harm), ("benign", compute_fim_benign)):
        rows = sample_gradients(model, spaces, samples, points[point](role))
        found = compute(
            model, adapters, batched(samples, 2), structure="block", point=point, spaces=spaces, estimator="empirical"
        )
        for name in spaces:
            assert relative(found.layers[name].dense(), dense_fisher(rows[name])) < 1e-9, (role, name)


def test_the_defaults_are_those_of_sst_merge(model: Any, spaces: dict[str, CoreSpace]) -> None:
    """log_odds, kronecker, trust: the same statistics as compute_fim at the furthest point within the budget."""
    adapters = make_adapters()
    harm_batches, benign_batches = batched(random_samples(3), 3), batched(random_samples(4, seed=1), 3)
    harm = compute_fim_harm(model, adapters, harm_batches, benign=benign_batches, spaces=spaces)
    benign = compute_fim_benign(model, adapters, benign_batches, spaces=spaces)
    assert harm.fingerprint == benign.fingerprint
    assert (harm.samples, benign.samples) == (3, 4)
    skilled = with_update(model, spaces, point_cores(adapters, spaces, role="utility"))
    safety = point_cores(adapters, spaces, role="safety")
    share = harm.settings["share"]
    assert 0.05 <= share <= 1.0
    moved = with_update(skilled, spaces, {name: share * core for name, core in safety.items()})
    divergence, tokens = 0.0, 0
    for batch in benign_batches:
        answers = batch.labels[:, 1:] >= 0
        with torch.no_grad():
            p, q = (
                torch.log_softmax(m(batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1], -1)[answers]
                for m in (skilled, moved)
            )
        divergence, tokens = divergence + float((p.exp() * (p - q)).sum()), tokens + len(p)
    assert share == 1.0 or divergence / tokens == pytest.approx(0.02, rel=0.25)
    for found, batches in ((harm, harm_batches), (benign, benign_batches)):
        expected = compute_fim(moved, spaces, batches, structure="kronecker", estimator="log_odds")
        assert found.structure == "kronecker"
        assert found.settings["share"] == share
        for name, layer in expected.layers.items():
            assert relative(found.layers[name].dense(), layer.dense()) < 1e-9


def test_a_point_that_cannot_be_found_is_refused(model: Any) -> None:
    with pytest.raises(DataError, match=r"the point 'trust' .* give benign data, or take another point"):
        compute_fim_harm(model, make_adapters(), batched(random_samples(3), 3))
    with pytest.raises(FisherError, match="unknown point 'here'"):
        compute_fim_harm(model, make_adapters(), [], point="here")  # type: ignore[arg-type]


def test_variance_approximation(model: Any, spaces: dict[str, CoreSpace]) -> None:
    samples = random_samples(5)
    cores = point_cores(make_adapters(), spaces, role="safety")
    rows = sample_gradients(model, spaces, samples, cores)
    found = lora_gradient_variance_approximation(
        model,
        make_adapters(),
        batched(samples, 2),
        spaces=spaces,
        point="own",
        own_role="safety",
        estimator="empirical",
    )
    for name in spaces:
        assert relative(found[name], rows[name].var(0, correction=0)) < 1e-9


def test_auto_structure_follows_size_and_memory() -> None:
    def space(p: int, q: int) -> CoreSpace:
        return CoreSpace(torch.zeros(64, p), torch.zeros(64, q))

    assert auto_structure({"a": space(32, 32)}) == "block"
    assert auto_structure({"a": space(32, 33)}) == "kronecker"
    assert auto_structure({"a": space(8, 8), "b": space(8, 8)}, 2 * 8 * 64**2) == "block"
    assert auto_structure({"a": space(8, 8), "b": space(8, 8)}, 2 * 8 * 64**2 - 1) == "kronecker"


@pytest.mark.parametrize(("architecture", "module"), [("gpt2", "transformer.h.0.attn.c_attn"), ("llama", "lm_head")])
def test_bias_adapters_beside_plain_ones(architecture: str, module: str, tmp_path: Path) -> None:
    # One adapter trained its biases (PEFT lora_bias), the other did not: both must meet in one core space.
    model = tiny_model(architecture, dtype=torch.float64)
    if architecture == "llama":
        model.lm_head = torch.nn.Linear(16, model.config.vocab_size, dtype=torch.float64)
    suffix = module.rpartition(".")[2]
    adapters = []
    for index, options in enumerate(({"lora_bias": True}, {})):
        peft_model(model, targets=[suffix], seed=index, r=2, **options).save_pretrained(tmp_path / str(index))
        adapters.append(Adapter.load(tmp_path / str(index), weight=0.3))
    spaces = {module: build_spaces(adapters, dtype=torch.float64)[module]}
    assert spaces[module].bias
    samples = random_samples(4)
    cores = point_cores(adapters, spaces)
    rows = sample_gradients(model, spaces, samples, cores)[module]
    found = compute_fim(model, spaces, batched(samples, 3), structure="block", point=cores, estimator="empirical")
    assert relative(found.layers[module].dense(), dense_fisher(rows)) < 1e-9
    deltas = [adapter.factors(module, dtype=torch.float64) for adapter in adapters]
    expected = sum(0.3 * f.delta() for f in deltas)
    lifted, _ = spaces[module].lift(cores[module])
    assert relative(lifted.delta(), expected) < 1e-6  # PEFT stored float32
    bias = deltas[0].bias_delta()
    assert bias is not None
    assert relative(lifted.bias_delta(), 0.3 * bias) < 1e-6


def make_fisher(rows: dict[str, Tensor], structure: str = "diagonal", mark: str = "x") -> Fisher:
    layers = {name: make_layer(structure, value) for name, value in rows.items()}
    return Fisher(structure, layers, len(next(iter(rows.values()))), mark)


@pytest.mark.parametrize("structure", ["diagonal", "lowrank"])
def test_identification_finds_what_varies_on_harm_alone(structure: str) -> None:
    benign = {name: make_rows(seed=index, count=50) for index, name in enumerate("abc")}
    harm = {name: 0.1 * make_rows(seed=9 + index, count=50) for index, name in enumerate("abc")}
    harm["b"][:, 2, :] *= 100.0
    # A large but constant gradient is no information: the second moment would rank it first.
    harm["c"] = torch.full_like(harm["c"], 1e3)
    found = vila_parameter_identification(
        make_fisher(harm, structure), make_fisher(benign, structure), keep_layers=0.3, keep_directions=0.25
    )
    assert list(found.kept) == ["b"]
    assert found.kept["b"][0].tolist() == [2]
    assert found.layer_importance["c"] < 1e-9 < found.layer_importance["a"] < found.layer_importance["b"]
    floor = 1e-3 * torch.stack([rows.var(0, correction=0) for rows in benign.values()]).mean()
    variances = harm["b"].var(0, correction=0), benign["b"].var(0, correction=0) + floor
    assert relative(found.left_importance["b"], variances[0].sum(1) / variances[1].sum(1)) < 1e-9
    assert relative(found.right_importance["b"], variances[0].sum(0) / variances[1].sum(0)) < 1e-9


def test_restricted_spaces_keep_the_chosen_columns() -> None:
    factors = {name: random_factors(9, 8, 4, seed=index) for index, name in enumerate("ab")}
    spaces = {name: CoreSpace.spanned_by([f]) for name, f in factors.items()}
    rows = {name: make_rows(seed=3 + index, shape=(4, 4)) for index, name in enumerate("ab")}
    found = vila_parameter_identification(
        make_fisher(rows), make_fisher({n: r.flip(0) * r for n, r in rows.items()}), keep_layers=0.5
    )
    smaller = restrict_spaces(spaces, found)
    assert len(smaller) == 1
    (name, space), (left, right) = next(iter(smaller.items())), next(iter(found.kept.values()))
    assert space.shape == (2, 2)
    assert torch.equal(space.left, spaces[name].left[:, left])
    assert torch.equal(space.right, spaces[name].right[:, right])
    with pytest.raises(FisherError, match="identification was made for"):
        restrict_spaces({name: space}, found)


def test_identification_refusals() -> None:
    rows = {"a": make_rows()}
    good = make_fisher(rows)
    with pytest.raises(FisherError, match="block Fisher does not know"):
        vila_parameter_identification(make_fisher(rows, "block"), make_fisher(rows, "block"))
    with pytest.raises(FisherError, match="different core spaces"):
        vila_parameter_identification(good, make_fisher(rows, mark="y"))
    for options in ({"keep_layers": 0.0}, {"keep_directions": 1.5}):
        with pytest.raises(FisherError, match="share"):
            vila_parameter_identification(good, good, **options)
    with pytest.raises(FisherError, match="eps"):
        vila_parameter_identification(good, good, eps=0.0)
    with pytest.raises(FisherError, match="no variance"):
        vila_parameter_identification(good, make_fisher({"a": torch.ones(4, 4, 3, dtype=torch.float64)}))


def test_layers_of_one_fisher_agree() -> None:
    rows = make_rows()
    block = make_layer("block", rows)
    with pytest.raises(FisherError, match="module b"):
        Fisher("block", {"a": block, "b": make_layer("block", rows[:2])}, 5, "x")
    with pytest.raises(FisherError, match="unknown Fisher structure"):
        Fisher("blok", {"a": block}, 5, "x")
    with pytest.raises(FisherError, match="without modules"):
        Fisher("block", {}, 5, "x")
