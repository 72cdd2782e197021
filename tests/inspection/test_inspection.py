"""Inspection: every figure against dense ΔW in float64, NumPy and SciPy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch.utils._python_dispatch import TorchDispatchMode

from sst_merge.errors import AdapterError, MergeError, OptionError
from sst_merge.inspection import Inspection, inspect_adapters, layer_of, shortened, target_of
from sst_merge.inspection import signs as signs_module
from sst_merge.lora_utils import Adapter, LoraFactors

SHAPES = {
    "model.layers.0.q_proj": (14, 11),
    "model.layers.0.down_proj": (9, 16),
    "model.layers.1.q_proj": (14, 11),
    "model.layers.1.down_proj": (9, 16),
}


def dense(adapter: Adapter, module: str, *, bias: bool = False) -> np.ndarray:
    """ΔW from the public accessors; with the bias update (or zeros) as one more column."""
    delta = adapter.delta(module, dtype=torch.float64).numpy()
    if not bias:
        return delta
    column = adapter.factors(module, dtype=torch.float64).bias_delta()
    return np.column_stack([delta, np.zeros(len(delta)) if column is None else column.numpy()])


def entropy_rank(values: np.ndarray) -> float:
    shares = values[values > 0] / values.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def column_space(matrix: np.ndarray) -> np.ndarray:
    left, values, _ = np.linalg.svd(matrix)
    return left[:, : int((values > 1e-9 * values[0]).sum())]


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return subspace_angles(column_space(first), column_space(second))


def opposite(first: np.ndarray, second: np.ndarray, negligible: float) -> tuple[int, int, float, float]:
    """(opposite, both, Σ|xy| opposite, Σ|xy|)."""
    large = [np.abs(matrix) > negligible * math.sqrt((matrix**2).mean()) for matrix in (first, second)]
    both, product = large[0] & large[1], first * second
    return int((both & (product < 0)).sum()), int(both.sum()), -product[product < 0].sum(), np.abs(product).sum()


def pair_of(first: Adapter, second: Adapter, **options: object) -> Inspection:
    return inspect_adapters([first, second], **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two(build: Any) -> tuple[Adapter, Adapter]:
    """Different ranks, different weights; each lacks a module that the other has."""
    first = {name: shape for name, shape in SHAPES.items() if name != "model.layers.1.down_proj"}
    second = {name: shape for name, shape in SHAPES.items() if name != "model.layers.0.down_proj"}
    return (
        build.random_adapter(first, name="a", rank=3, seed=1, weight=0.7),
        build.random_adapter(second, name="b", rank=5, seed=2, weight=-1.5),
    )


# --- one adapter ------------------------------------------------------------------------------------------------------


def test_one_adapter_against_dense_svds(two: tuple[Adapter, Adapter]) -> None:
    adapter = two[0]
    found = inspect_adapters([adapter])
    assert found.pairs == ()
    assert found.cosines() == [[1.0]]
    figures = found.adapters[0]
    assert figures.modules.keys() == set(adapter.modules)
    values = {module: np.linalg.svd(dense(adapter, module), compute_uv=False) for module in adapter.modules}
    for module, expected in values.items():
        one = figures.modules[module]
        assert one.norm == pytest.approx(np.linalg.norm(expected), rel=1e-12)
        assert one.spectral_norm == pytest.approx(expected[0], rel=1e-12)
        assert one.effective_rank == pytest.approx(entropy_rank(expected[:3]), rel=1e-9)
        assert (one.rank, one.numerical_rank, one.shape) == (3, 3, SHAPES[module])
    assert figures.norm == pytest.approx(math.sqrt(sum((v**2).sum() for v in values.values())), rel=1e-12)
    assert figures.spectral_norm == pytest.approx(max(v[0] for v in values.values()), rel=1e-12)
    assert figures.effective_rank == pytest.approx(np.median([entropy_rank(v[:3]) for v in values.values()]), rel=1e-9)
    assert figures.targets == {"down_proj": 1, "q_proj": 2}
    assert figures.stored is None
    assert found.weighted_sum.norm == pytest.approx(0.7 * figures.norm, rel=1e-12)
    assert found.weighted_sum.rank == 3
    assert not any("pair" in sentence or "perpendicular" in sentence for sentence in found.meaning)


def test_factors_of_a_lower_rank_than_they_have_columns(build: Any) -> None:
    f = build.random_factors(9, 8, 2, seed=0)
    doubled = LoraFactors(torch.cat([f.b, f.b], 1), torch.cat([f.a, -0.5 * f.a], 0))
    one = inspect_adapters([Adapter.from_factors({"m": doubled}, name="a")]).adapters[0].modules["m"]
    assert (one.rank, one.numerical_rank) == (4, 2)


# --- two adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 40, 1 << 18])
def test_two_adapters_against_dense(two: tuple[Adapter, Adapter], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosine, principal angles and signs per module and over all, however the rows are cut into blocks."""
    monkeypatch.setattr(signs_module, "_BLOCK_ENTRIES", block)
    pair = pair_of(*two, negligible=0.3).pairs[0]
    shared = [module for module in two[0].modules if module in two[1]]
    assert list(pair.modules) == shared == ["model.layers.0.q_proj", "model.layers.1.q_proj"]
    inner, squares, counts = 0.0, np.zeros(2), np.zeros(4)
    cosines: dict[str, list[float]] = {"left": [], "right": []}
    for module in shared:
        x, y = dense(two[0], module), dense(two[1], module)
        one = pair.modules[module]
        assert one.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)
        for side, (p, q) in {"left": (x, y), "right": (x.T, y.T)}.items():
            expected = angles(p, q)
            spaces = getattr(one, side)
            assert spaces.directions == 3
            assert spaces.overlap == pytest.approx((np.cos(expected) ** 2).mean(), rel=1e-9)
            assert spaces.smallest_angle == pytest.approx(np.degrees(expected.min()), rel=1e-9)
            assert spaces.chance == pytest.approx(5 / len(p))
            cosines[side] += list(np.cos(expected) ** 2)
        wanted = opposite(x, y, 0.3)
        assert (one.signs.opposite, one.signs.both) == wanted[:2]
        assert one.signs.share == pytest.approx(wanted[0] / wanted[1])
        assert one.conflict == pytest.approx(wanted[2] / wanted[3], rel=1e-9)
        inner, counts = inner + (x * y).sum(), counts + wanted
        squares += (x**2).sum(), (y**2).sum()
    total = pair.total
    assert total is not None
    assert total.cosine == pytest.approx(inner / math.sqrt(squares.prod()), rel=1e-9)
    assert total.left.overlap == pytest.approx(np.mean(cosines["left"]), rel=1e-9)
    assert total.right.overlap == pytest.approx(np.mean(cosines["right"]), rel=1e-9)
    assert total.signs.share == pytest.approx(counts[0] / counts[1])
    assert total.conflict == pytest.approx(counts[2] / counts[3], rel=1e-9)
    norms = [sum((dense(adapter, m) ** 2).sum() for m in adapter.modules) for adapter in two]
    assert pair.shared_energy == pytest.approx(tuple(squares / norms), rel=1e-9)


def test_layers_are_their_modules_together(build: Any) -> None:
    adapters = [build.random_adapter(SHAPES, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    layers = pair_of(*adapters).pairs[0].by_layer()
    assert list(layers) == ["model.layers.0", "model.layers.1"]
    for layer, one in layers.items():
        x, y = (
            np.concatenate([dense(adapter, m).ravel() for m in SHAPES if m.startswith(layer)]) for adapter in adapters
        )
        assert one.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)


def test_figures_do_not_depend_on_the_factorisation(two: tuple[Adapter, Adapter]) -> None:
    generator = torch.Generator().manual_seed(7)

    def mixed(adapter: Adapter) -> Adapter:
        factors = {}
        for module in adapter.modules:
            f = adapter.factors(module)
            mix = torch.randn(f.rank, f.rank, generator=generator, dtype=torch.float64)
            factors[module] = LoraFactors(f.b @ mix, torch.linalg.solve(mix, f.a))
        return Adapter.from_factors(factors, name=adapter.name, weight=adapter.weight)

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            return [number for key in value for number in numbers(value[key])]
        if isinstance(value, list | tuple):
            return [number for item in value for number in numbers(item)]
        return [float(value)] if isinstance(value, int | float) else []

    one, other = (numbers(pair_of(*adapters).to_dict()) for adapters in (two, [mixed(a) for a in two]))
    assert len(one) > 100
    np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.3])
def test_copies_and_negative_copies(build: Any, factor: float) -> None:
    one = build.random_adapter(SHAPES, name="a", seed=3)
    scaled = {m: LoraFactors(factor * one.factors(m).b, one.factors(m).a) for m in one.modules}
    found = pair_of(one, Adapter.from_factors(scaled, name="b"))
    total = found.pairs[0].total
    assert total.cosine == pytest.approx(math.copysign(1.0, factor), abs=1e-12)
    for spaces in (total.left, total.right):
        assert spaces.overlap == pytest.approx(1.0, abs=1e-12)
        assert spaces.smallest_angle == pytest.approx(0.0, abs=1e-6)
    assert total.signs.share == total.conflict == (0.0 if factor > 0 else 1.0)
    assert found.weighted_sum.norm == pytest.approx(abs(1 + factor) * found.adapters[0].norm, abs=1e-9)
    words = "the same update up to a factor" if factor > 0 else "opposite copies"
    assert any(words in sentence for sentence in found.meaning)


def test_a_sum_that_cancels_has_no_rank_left(build: Any) -> None:
    """Rounding noise is not counted as directions."""
    one = build.random_adapter(SHAPES, name="a", seed=3)
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [1.0, 0.0, 3.0]], dtype=torch.float64)
    factors = {m: one.factors(m) for m in one.modules}
    other = {m: LoraFactors(-f.b @ mix, torch.linalg.inv(mix) @ f.a) for m, f in factors.items()}
    total = pair_of(one, Adapter.from_factors(other, name="b")).weighted_sum
    assert {module.rank for module in total.modules.values()} == {0}
    assert (total.norm, total.rank, total.recommended_rank) == (0.0, 1, 1)
    assert total.spread(0.99).largest == 0


def test_orthogonal_updates_share_nothing(build: Any) -> None:
    def part(rows: slice, columns: slice, seed: int) -> LoraFactors:
        f = build.random_factors(12, 10, 2, seed=seed)
        b, a = torch.zeros_like(f.b), torch.zeros_like(f.a)
        b[rows], a[:, columns] = f.b[rows], f.a[:, columns]
        return LoraFactors(b, a)

    adapters = [
        Adapter.from_factors({"m": part(slice(0, 6), slice(0, 5), 0)}, name="a"),
        Adapter.from_factors({"m": part(slice(6, 12), slice(5, 10), 1)}, name="b"),
    ]
    found = inspect_adapters(adapters)
    total = found.pairs[0].total
    assert total.cosine == pytest.approx(0.0, abs=1e-15)
    for spaces in (total.left, total.right):
        assert spaces.overlap == pytest.approx(0.0, abs=1e-15)
        assert spaces.smallest_angle == pytest.approx(90.0)
    assert (total.signs.both, total.signs.share, total.conflict) == (0, None, None)
    assert found.weighted_sum.norm == pytest.approx(found.weighted_sum.perpendicular_norm)
    assert found.weighted_sum.rank == 4


def test_nothing_in_common(build: Any) -> None:
    first, second = build.random_adapter({"x": (5, 4)}, name="a"), build.random_adapter({"y": (5, 4)}, name="b")
    found = pair_of(first, second)
    assert found.pairs[0].total is None
    assert found.pairs[0].shared_energy == (0.0, 0.0)
    assert found.cosines() == [[1.0, None], [None, 1.0]]
    assert found.partial_modules() == {"x": ("a",), "y": ("b",)}
    assert found.to_dict()["shared_modules"] == 0
    assert any("touch no module in common" in sentence for sentence in found.meaning)
    assert any(sentence.startswith("0 of 2 modules are touched by all") for sentence in found.meaning)


def test_a_zero_adapter_has_no_direction(build: Any) -> None:
    zero = Adapter.from_factors({"m": LoraFactors(torch.zeros(6, 2), torch.ones(2, 5))}, name="zero")
    found = pair_of(build.random_adapter({"m": (6, 5)}, name="a"), zero)
    total = found.pairs[0].total
    assert (total.cosine, total.left.overlap, total.right.smallest_angle, total.conflict) == (None, None, None, None)
    assert found.adapters[1].effective_rank == 0.0
    assert found.cosines()[1] == [None, None]
    assert "'zero' is zero everywhere: merging it changes nothing." in found.meaning
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["pairs"][0]["total"]["cosine"] is None


def test_signs_survive_extreme_scales_in_float32(build: Any) -> None:
    """Products of tiny entries would be 0 in float32."""
    f, g = (build.random_factors(30, 20, 3, seed=s, dtype=torch.float32) for s in (0, 1))
    tiny = Adapter.from_factors({"m": LoraFactors(f.b * 1e-16, f.a * 1e-16)}, name="a")
    large = Adapter.from_factors({"m": LoraFactors(g.b * 1e-10, g.a)}, name="b")
    total = pair_of(tiny, large).pairs[0].total
    wanted = opposite(dense(tiny, "m"), dense(large, "m"), 0.1)
    assert total.signs.share == pytest.approx(wanted[0] / wanted[1], abs=2e-3)
    assert total.conflict == pytest.approx(wanted[2] / wanted[3], rel=1e-5)


def test_signs_can_be_left_out(two: tuple[Adapter, Adapter]) -> None:
    found = pair_of(*two, signs=False)
    assert found.negligible is None
    assert found.pairs[0].total.signs is None
    assert found.to_dict()["pairs"][0]["total"]["sign_conflict"] is None
    assert not any("opposite" in sentence for sentence in found.meaning)


# --- the weighted sum -------------------------------------------------------------------------------------------------


def test_weighted_sum_against_dense_svds(two: tuple[Adapter, Adapter]) -> None:
    total = pair_of(*two).weighted_sum
    assert set(total.modules) == set(SHAPES)
    squares, ranks = np.zeros(8), {0.9: [], 0.99: []}
    for module, one in total.modules.items():
        touching = [adapter for adapter in two if module in adapter]
        assert one.touched_by == tuple(adapter.name for adapter in touching)
        values = np.linalg.svd(sum(a.weight * dense(a, module) for a in touching), compute_uv=False)
        values = values[: sum(adapter.rank(module) for adapter in touching)]
        assert (one.rank, one.bound) == (len(values), len(values))
        np.testing.assert_allclose(one.values, values, rtol=1e-9)
        assert one.effective_rank == pytest.approx(entropy_rank(values), rel=1e-9)
        share = np.cumsum(values**2) / (values**2).sum()
        for energy, found in ranks.items():
            found.append(int(np.argmax(share >= energy)) + 1)
            assert one.rank_for(energy) == found[-1]
        squares[: len(values)] += values**2
    for energy, found in ranks.items():
        spread = total.spread(energy)
        assert (spread.smallest, spread.median, spread.largest) == (min(found), np.median(found), max(found))
        assert spread.together == int(np.argmax(np.cumsum(squares) / squares.sum() >= energy)) + 1
    assert total.rank == 8
    assert total.recommended_rank == max(ranks[0.99])
    assert total.norm == pytest.approx(math.sqrt(squares.sum()), rel=1e-9)
    parts = sum(a.weight**2 * (dense(a, m) ** 2).sum() for a in two for m in a.modules)
    assert total.perpendicular_norm == pytest.approx(math.sqrt(parts), rel=1e-9)


def test_the_recommended_rank_keeps_what_it_says(two: tuple[Adapter, Adapter]) -> None:
    from sst_merge.merging import merge

    rank = pair_of(*two).weighted_sum.recommended_rank
    kept = [m.kept_energy for m in merge(list(two), rank=rank, compute_dtype=torch.float64).report.modules.values()]
    assert min(kept) >= 0.99
    below = merge(list(two), rank=rank - 1, compute_dtype=torch.float64).report.modules.values()
    assert min(m.kept_energy for m in below) < 0.99


# --- adapters on disk -------------------------------------------------------------------------------------------------


def test_stored_form_of_a_peft_folder(build: Any, tmp_path: Path) -> None:
    options = {
        "targets": build.ARCHITECTURES["llama"].linears,
        "use_rslora": True,
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    }
    model = build.tiny_model("llama", dtype=torch.bfloat16)
    peft = build.peft_model(model, seed=1, **options)
    for module in peft.modules():
        for part in ("lora_A", "lora_B"):
            if hasattr(module, part):
                getattr(module, part).to(torch.bfloat16)
    peft.save_pretrained(tmp_path / "a")
    scalings = {module.scaling["default"] for module in peft.modules() if hasattr(module, "lora_A")}
    stored = inspect_adapters([Adapter.load(tmp_path / "a")]).adapters[0].stored
    assert stored.scales == pytest.approx(sorted(scalings))
    assert stored.dtypes == ("bfloat16",)
    assert stored.variant == ("rslora", "rank_pattern", "alpha_pattern")
    assert stored.file_bytes == (tmp_path / "a" / "adapter_model.safetensors").stat().st_size


def test_bias_conv1d_and_embedding(build: Any, tmp_path: Path) -> None:
    """A bias update is one more column of ΔW; an adapter without it has zeros there."""
    gpt2 = build.ARCHITECTURES["gpt2"]
    model = build.tiny_model("gpt2")
    common = {"fan_in_fan_out": True}
    adapters = [
        Adapter.load(
            build.adapter_folder(model, tmp_path / "b", seed=1, targets=gpt2.linears, lora_bias=True, **common)
        ),
        Adapter.load(build.adapter_folder(model, tmp_path / "p", seed=2, targets=gpt2.linears, r=3, **common)),
    ]
    pair = inspect_adapters(adapters).pairs[0]
    for module, one in pair.modules.items():
        x, y = (dense(adapter, module, bias=True) for adapter in adapters)
        assert np.abs(x[:, -1]).max() > 0
        assert one.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-6)
        assert one.right.overlap == pytest.approx((np.cos(angles(x.T, y.T)) ** 2).mean(), rel=1e-6)
        wanted = opposite(x, y, 0.1)
        assert one.conflict == pytest.approx(wanted[2] / wanted[3], rel=1e-4)
    assert {figures.kind for figures in inspect_adapters(adapters).adapters[0].modules.values()} == {"conv1d"}
    llama = build.ARCHITECTURES["llama"]
    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path / "e", targets=["embed_tokens", "q_proj"], r=2)
    embedding = Adapter.load(folder)
    figures = inspect_adapters([embedding]).adapters[0].modules[llama.embedding]
    assert figures.kind == "embedding"
    assert figures.norm == pytest.approx(np.linalg.norm(dense(embedding, llama.embedding)), rel=1e-6)


# --- words and warnings -----------------------------------------------------------------------------------------------


def test_many_adapters_are_summed_up_by_their_extremes(build: Any) -> None:
    adapters = [build.random_adapter(SHAPES, name=f"a{seed}", seed=seed) for seed in range(4)]
    adapters.append(Adapter.from_factors({m: adapters[0].factors(m) for m in SHAPES}, name="copy", weight=3.0))
    found = inspect_adapters(adapters)
    assert len(found.pairs) == 10
    (sentence,) = [text for text in found.meaning if text.startswith("The cosine runs")]
    assert sentence.endswith("to 1.000 ('a0' and 'copy') over 10 pairs.")
    (size,) = [text for text in found.meaning if "times as large" in text]
    assert size.startswith("'copy' is ")


def test_overlap_is_judged_against_chance(build: Any) -> None:
    shared = build.random_factors(40, 30, 2, seed=0)
    spread = [build.random_factors(40, 30, 2, seed=s) for s in (1, 2)]
    same_outputs = [Adapter.from_factors({"m": LoraFactors(shared.b, spread[i].a)}, name="ab"[i]) for i in range(2)]
    (sentence,) = [text for text in inspect_adapters(same_outputs).meaning if text.startswith("They write to")]
    assert sentence.startswith(
        "They write to 100 % common output directions, clearly more than unrelated updates would (5 %), and read "
    )


def test_bases_are_compared(build: Any) -> None:
    adapters = [
        Adapter.from_factors({"m": build.random_factors(6, 5, 2, seed=i)}, name=name, base_model=base)
        for i, (name, base) in enumerate([("a", "one/base"), ("b", "other/base"), ("c", None)])
    ]
    warnings = inspect_adapters(adapters).warnings
    assert "different bases" in warnings[0]
    for part in ("'a'", "'one/base'", "'b'", "'other/base'"):
        assert part in warnings[0]
    assert "adapter 'c' names no base model" in warnings[1]
    assert len(warnings) == 2


def test_refusals(build: Any, tmp_path: Path) -> None:
    one = build.random_adapter({"m": (6, 5)}, name="a")
    with pytest.raises(AdapterError, match=r"module 'm' is \(6, 5\) .* in adapter 'a' and \(6, 4\) in adapter 'b'"):
        pair_of(one, build.random_adapter({"m": (6, 4)}, name="b"))
    with pytest.raises(MergeError, match="two adapters are called 'a'"):
        pair_of(one, one)
    with pytest.raises(MergeError, match="at least one"):
        inspect_adapters([])
    for negligible in (-0.1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="negligible = "):
            inspect_adapters([one], negligible=negligible)
    broken = build.random_factors(6, 5, 2)
    broken.b[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="B of module 'm' holds 1 NaN"):
        inspect_adapters([Adapter.from_factors({"m": broken}, name="a")])
    with pytest.raises(AdapterError, match="no such folder"):
        Adapter.load(tmp_path / "gone")


def test_progress_is_reported(two: tuple[Adapter, Adapter]) -> None:
    calls: list[tuple[str, int, int]] = []
    pair_of(*two, progress=lambda *call: calls.append(call))
    assert calls == [("inspect", done, 4) for done in (1, 2, 3, 4)]


def test_names_of_layers_and_targets() -> None:
    assert target_of("model.layers.3.self_attn.q_proj") == "q_proj"
    assert layer_of("encoder.block.2.layer.0.wi") == "encoder.block.2"
    assert layer_of("lm_head") == "lm_head"
    assert shortened(["m.layers.0", "m.layers.11"]) == {"m.layers.0": "0", "m.layers.11": "11"}
    assert shortened(["a.b", "c.b"]) == {"a.b": "a.b", "c.b": "c.b"}
    assert shortened(["only.one"]) == {"only.one": "one"}
    assert shortened([]) == {}


# --- memory -----------------------------------------------------------------------------------------------------------


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            if isinstance(item, torch.Tensor):
                self.numel = max(self.numel, item.numel())
        return result


@pytest.mark.parametrize(("signs", "limit"), [(False, 16 * 3000), (True, 1 << 18)])
def test_no_update_is_ever_formed_whole(build: Any, signs: bool, limit: int) -> None:
    adapters = [
        build.random_adapter({"m": (3000, 2000)}, name=n, rank=8, seed=s, dtype=torch.float32)
        for s, n in [(0, "a"), (1, "b")]
    ]
    with _Largest() as seen:
        inspect_adapters(adapters, signs=signs)
    assert 0 < seen.numel <= limit
