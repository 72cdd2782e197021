"""Data-free merge methods against naive dense float64 implementations, PEFT, and expectations over seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sst_merge.errors import MergeError, OptionError
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import merge, module_generator
from sst_merge.methods import named_generator
from sst_merge.methods.parts.spectral import significant_svd
from sst_merge.methods.parts.thresholds import magnitude_threshold

Array = NDArray[np.float64]
MODULE = "model.layers.0.mlp.down_proj"
SHAPE = (12, 20)
WEIGHTS = (1.0, 0.5, -0.7)
SEEDS = 200


def adapters(build: Any, weights: tuple[float, ...] = WEIGHTS) -> list[Adapter]:
    found = []
    for index, weight in enumerate(weights):
        factors = {MODULE: build.random_factors(*SHAPE, 2 + index, seed=40 + index)}
        found.append(Adapter.from_factors(factors, name=f"a{index}", weight=weight))
    return found


def dense(items: list[Adapter]) -> list[Array]:
    """wᵢ τᵢ, computed from the factors by NumPy."""
    return [a.weight * (a.factors(MODULE).b.numpy() @ a.factors(MODULE).a.numpy()) for a in items]


def merged(method: str, items: list[Adapter], *, seed: int = 0, **options: Any) -> Array:
    result = merge(items, method, seed=seed, compute_dtype=torch.float64, **options)
    return result.adapter.delta(MODULE, dtype=torch.float64).numpy()


def assert_close(found: Array, expected: Array, tolerance: float = 1e-10) -> None:
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


# Naive references. Entry by entry, or with NumPy's sort and SVD on the whole ΔW.


def keep_largest(matrix: Array, count: int) -> Array:
    kept = np.zeros(matrix.size)
    order = np.argsort(-np.abs(matrix), axis=None)[:count]
    kept[order] = matrix.flatten()[order]
    return kept.reshape(matrix.shape)


def agreeing_mean(updates: list[Array], shares: list[float] | None) -> Array:
    """The disjoint mean; the plain sum of agreeing entries where ``shares`` is None."""
    out = np.zeros(updates[0].shape)
    for position in np.ndindex(*out.shape):
        entries = [u[position] for u in updates]
        elected = np.sign(sum(entries))
        agreeing = [i for i, entry in enumerate(entries) if np.sign(entry) == elected and elected != 0]
        if agreeing:
            out[position] = sum(entries[i] for i in agreeing)
            if shares is not None:
                out[position] /= sum(shares[i] for i in agreeing)
    return out


def rank_of(matrix: Array) -> int:
    return int(np.linalg.matrix_rank(matrix))


def truncated_svd(matrix: Array, count: int) -> tuple[Array, Array, Array]:
    u, s, vt = np.linalg.svd(matrix)
    return u[:, :count], s[:count], vt[:count]


def nearest_orthonormal(columns: Array) -> Array:
    """X (XᵀX)^{-1/2} by the eigenvectors of the Gram matrix."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return columns @ (vectors / np.sqrt(values)) @ vectors.T


ONES = [1.0] * len(WEIGHTS)
MAGNITUDES = [abs(w) for w in WEIGHTS]


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_the_weighted_average(build: Any, normalize: bool) -> None:
    expected = sum(dense(adapters(build))) / (2.2 if normalize else 1.0)
    assert_close(merged("linear", adapters(build), normalize=normalize), np.asarray(expected))


def test_svd_is_the_best_approximation_of_the_sum(build: Any) -> None:
    u, s, vt = truncated_svd(np.asarray(sum(dense(adapters(build)))), 3)
    assert_close(merged("svd", adapters(build), rank=3, strength=2.0), 2.0 * (u * s) @ vt)


@pytest.mark.parametrize("normalize", ["count", "weights", "none"])
@pytest.mark.parametrize("density", [0.2, 0.53, 1.0])
def test_ties(build: Any, normalize: str, density: float) -> None:
    trimmed = [keep_largest(u, int(density * u.size)) for u in dense(adapters(build))]
    shares = {"count": ONES, "weights": MAGNITUDES, "none": None}[normalize]
    expected = 0.8 * agreeing_mean(trimmed, shares)
    assert_close(merged("ties", adapters(build), normalize=normalize, density=density, strength=0.8), expected)


def test_ties_by_hand() -> None:
    """Two updates of one row: the larger sum elects the sign, zeros do not vote, an exact draw gives 0."""
    rows = ([3.0, -1.0, 0.0, 2.0, 0.0], [1.0, 4.0, 5.0, -2.0, 0.0])
    items = [
        Adapter.from_factors({MODULE: LoraFactors(torch.ones(1, 1).double(), torch.tensor([row]).double())}, name=name)
        for row, name in zip(rows, "ab", strict=True)
    ]
    assert np.allclose(merged("ties", items, density=1.0), [[2.0, 4.0, 5.0, 0.0, 0.0]])
    # int(0.4 · 5) = 2 entries each are kept, and in the first row nothing ties with them.
    assert np.allclose(merged("ties", items, density=0.4), [[3.0, 4.0, 5.0, 2.0, 0.0]])


def test_entries_that_tie_with_the_last_kept_one_are_kept() -> None:
    row = torch.tensor([[1.0, -2.0, 2.0, 2.0, 0.5]]).double()
    item = Adapter.from_factors({MODULE: LoraFactors(torch.ones(1, 1).double(), row)}, name="a")
    assert np.allclose(merged("magnitude_prune", [item], density=0.2), [[0.0, -2.0, 2.0, 2.0, 0.0]])


def test_magnitude_prune(build: Any) -> None:
    trimmed = [keep_largest(u, int(0.2 * u.size)) for u in dense(adapters(build))]
    assert_close(merged("magnitude_prune", adapters(build)), np.asarray(sum(trimmed)))


def test_breadcrumbs(build: Any) -> None:
    expected = np.zeros(SHAPE)
    for update in dense(adapters(build)):
        n = update.size
        outliers = int(0.05 * n)
        expected += keep_largest(update, outliers + int(0.3 * n)) - keep_largest(update, outliers)
    assert_close(merged("breadcrumbs", adapters(build), density=0.3, gamma=0.05), expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_sce(build: Any, normalize: bool) -> None:
    updates = dense(adapters(build))
    variance = np.var(np.stack(updates), axis=0)
    selected = keep_largest(variance, int(0.3 * variance.size)) > 0
    chosen = [np.where(selected, u, 0.0) for u in updates]
    energies = [float((u**2).sum()) for u in chosen]
    eta = [e / sum(energies) for e in energies]
    expected = np.zeros(SHAPE)
    for position in zip(*np.nonzero(selected), strict=True):
        elected = np.sign(sum(u[position] for u in chosen))
        agreeing = [i for i, u in enumerate(chosen) if np.sign(u[position]) == elected]
        total = sum(eta[i] * chosen[i][position] for i in agreeing)
        expected[position] = total / sum(eta[i] for i in agreeing) if normalize else total
    assert_close(merged("sce", adapters(build), density=0.3, normalize=normalize), expected)


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.6, 1.0])
def test_subspace_boosting(build: Any, beta: float) -> None:
    total = np.asarray(sum(dense(adapters(build))))
    u, s, vt = truncated_svd(total, rank_of(total))
    cumulative, first = 0.0, 0
    for index, value in enumerate(s):
        cumulative += value / s.sum()
        if cumulative >= beta or index == len(s) - 1:
            first = index
            break
    boosted = np.where(np.arange(len(s)) > first, s[first], s)
    assert_close(merged("subspace_boosting", adapters(build), beta=beta), (u * boosted) @ vt)


def test_subspace_boosting_with_beta_one_is_the_sum(build: Any) -> None:
    assert_close(merged("subspace_boosting", adapters(build), beta=1.0), np.asarray(sum(dense(adapters(build)))))


def test_iso_c(build: Any) -> None:
    total = np.asarray(sum(dense(adapters(build))))
    u, s, vt = truncated_svd(total, rank_of(total))
    assert_close(merged("iso_c", adapters(build), strength=0.5), 0.5 * s.mean() * u @ vt)


def test_iso_cts(build: Any) -> None:
    """Rank 9 of three tasks: a common share of 0.6 leaves one direction per task (0.4 · 9 / 3 = 1.2)."""
    updates = dense(adapters(build))
    u, s, vt = truncated_svd(np.asarray(sum(updates)), 9)
    lefts, values, rights = [u[:, :6]], list(s[:6]), [vt[:6].T]
    for update in updates:
        left, value, right = truncated_svd(update - lefts[0] @ (lefts[0].T @ update), 1)
        lefts.append(left)
        values += list(value)
        rights.append(right.T)
    expected = np.mean(values) * nearest_orthonormal(np.hstack(lefts)) @ nearest_orthonormal(np.hstack(rights)).T
    assert_close(merged("iso_cts", adapters(build), common=0.6), expected)


@pytest.mark.parametrize("kept", [None, 0.2])
def test_cart(build: Any, kept: float | None) -> None:
    """Ranks 2, 3 and 4 make a core of 9, of which one part in three is 3 triplets."""
    updates = dense(adapters(build))
    average = np.asarray(sum(updates)) / 3
    parts = [truncated_svd(update - average, 3 if kept is None else 2) for update in updates]
    expected = average + 0.7 * sum((left * value) @ right for left, value, right in parts)
    assert_close(merged("cart", adapters(build), strength=0.7, kept=kept), expected)


def test_wudi_is_where_the_authors_steps_end(build: Any) -> None:
    """Against a least-squares solve of their objective, stacked densely, with the pull towards the sum as more rows."""
    items = [a.with_(weight=w) for a, w in zip(adapters(build), (1.0, 0.5, -2.0), strict=True)]
    updates = [a.delta(MODULE, dtype=torch.float64).numpy() for a in items]
    rows = [update / np.linalg.norm(update) for update in updates]
    # The core's own mean diagonal, 9 directions of the 20 inputs.
    ridge = 1e-3 * sum(np.square(row).sum() for row in rows) / 9
    total = np.asarray(sum(a.weight * u for a, u in zip(items, updates, strict=True)))
    wanted = [a.weight * u @ row.T for a, u, row in zip(items, updates, rows, strict=True)]
    system = np.vstack([*rows, np.sqrt(ridge) * np.eye(updates[0].shape[1])])
    target = np.vstack([*(w.T for w in wanted), np.sqrt(ridge) * total.T])
    expected = np.linalg.lstsq(system, target, rcond=None)[0].T
    assert_close(merged("wudi", items), expected)


def test_consensus_ta(build: Any) -> None:
    updates = dense(adapters(build))
    total = np.asarray(sum(updates))
    votes = sum((np.abs(u) >= 0.4 * np.abs(total - u)).astype(int) for u in updates)
    assert_close(merged("consensus_ta", adapters(build), strength=0.5), 0.5 * total * (votes >= 2))
    assert_close(merged("consensus_ta", adapters(build), agreeing=1), total * (votes >= 1))


def test_localize_and_stitch(build: Any) -> None:
    trimmed = [keep_largest(u, int(0.3 * u.size)) for u in dense(adapters(build))]
    claims = sum((t != 0).astype(int) for t in trimmed)
    assert set(np.unique(claims)) == {0, 1, 2, 3}
    expected = 0.5 * np.asarray(sum(trimmed)) / np.maximum(claims, 1)
    assert_close(merged("localize_and_stitch", adapters(build), density=0.3, strength=0.5), expected)


def test_pico(build: Any) -> None:
    """The paper's formulas on B as it is stored; an adapter of weight 0 does not count."""
    items = adapters(build)
    stacked = np.hstack([a.weight * a.factors(MODULE).b.numpy() for a in items])
    u, s, _ = np.linalg.svd(stacked, full_matrices=False)
    alpha = 1.0 / (1.0 + 2.0 * s**2 / (s**2).sum())
    operator = np.eye(SHAPE[0]) + u @ np.diag(alpha - 1.0) @ u.T
    calibrated = np.mean([operator @ update for update in dense(items)], axis=0)
    gamma = np.mean([np.linalg.norm(update) for update in dense(items)]) / np.linalg.norm(calibrated)
    unused = items[0].with_(name="unused", weight=0.0)
    assert_close(merged("pico", [*items, unused], strength=0.6), 0.6 * gamma * calibrated)


def test_pico_does_not_raise_what_cancels(build: Any) -> None:
    first = adapters(build)[0]
    assert float(np.abs(merged("pico", [first, first.with_(name="other", weight=-1.0)])).max()) == 0.0


def test_pico_turns_down_what_both_adapters_write_to(build: Any) -> None:
    """Two updates of rank 2 with one output in common, each of length 1 on every output: s = 1/2, 1/4, 1/4."""
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(SHAPE[1], 4)))[0].T
    items = [
        Adapter.from_factors({MODULE: LoraFactors(torch.eye(3).double()[:, own], torch.tensor(rows[part]))}, name=name)
        for name, own, part in (("a", [0, 1], slice(0, 2)), ("b", [0, 2], slice(2, 4)))
    ]
    shared, first, second = np.linalg.norm(merged("pico", items), axis=1)
    # α of the shared output is 1 / (1 + 1/2), of the others 1 / (1 + 1/4); it holds two of the four unit rows.
    assert shared / first == pytest.approx(np.sqrt(2.0) * (2 / 3) / (4 / 5))
    assert first == pytest.approx(second)


@pytest.mark.parametrize(("r", "beta"), [(None, 0.25), (2, 1.0)])
def test_compress_then_merge(build: Any, r: int | None, beta: float) -> None:
    """Higher-order orthogonal iteration on dense updates, until the missed share stands still."""
    updates = dense(adapters(build))
    norms = [np.linalg.norm(u) for u in updates]
    targets = [u / n * (beta * n + (1 - beta) * np.mean(norms)) for u, n in zip(updates, norms, strict=True)]
    size, count = np.sqrt(sum((t**2).sum() for t in targets)), r or 4
    v = np.linalg.svd(np.vstack(targets))[2][:count].T
    errors = [1.0]
    while len(errors) < 2 or abs(errors[-1] - errors[-2]) >= 1e-6:
        u = np.linalg.svd(np.hstack([t @ v for t in targets]))[0][:, :count]
        v = np.linalg.svd(np.hstack([t.T @ u for t in targets]))[0][:, :count]
        errors.append(np.sqrt(size**2 - sum(((u.T @ t @ v) ** 2).sum() for t in targets)) / size)
    trimmed = [keep_largest(o, int(0.4 * o.size)) for o in (u.T @ update @ v for update in updates)]
    found = merged("compress_then_merge", adapters(build), directions=r, beta=beta, density=0.4)
    assert_close(found, u @ agreeing_mean(trimmed, ONES) @ v.T)
    assert rank_of(found) <= count


def test_compress_then_merge_keeps_whole_what_fits(build: Any) -> None:
    """With as many directions as all ranks together nothing is lost: TIES at density 1 in rotated coordinates."""
    alone = adapters(build, (1.0,))
    assert_close(merged("compress_then_merge", alone, density=1.0), dense(alone)[0])
    everything = merged("compress_then_merge", adapters(build), directions=9, density=1.0, normalize="none")
    again = merged("compress_then_merge", adapters(build), directions=12, density=1.0, normalize="none")
    assert_close(again, everything)


@pytest.mark.parametrize("per_task", [None, 0.5])
def test_tsv_m(build: Any, per_task: float | None) -> None:
    lefts, values, rights = [], [], []
    for update, rank in zip(dense(adapters(build)), (2, 3, 4), strict=True):
        left, value, right = truncated_svd(update, rank if per_task is None else max(1, int(per_task * rank)))
        lefts.append(left)
        values += list(value)
        rights.append(right.T)
    left, right = nearest_orthonormal(np.hstack(lefts)), nearest_orthonormal(np.hstack(rights))
    assert_close(merged("tsv_m", adapters(build), per_task=per_task), (left * np.array(values)) @ right.T)


def test_tsv_m_keeps_one_tth_of_full_rank_tasks(build: Any) -> None:
    """The paper's setting: min(d_out, d_in) / T triplets of each task."""
    factors = [build.random_factors(12, 20, 12, seed=70 + i) for i in range(3)]
    items = [Adapter.from_factors({MODULE: f}, name=f"a{i}") for i, f in enumerate(factors)]
    parts = [truncated_svd(update, 4) for update in dense(items)]
    left = nearest_orthonormal(np.hstack([p[0] for p in parts]))
    right = nearest_orthonormal(np.hstack([p[2].T for p in parts]))
    assert_close(merged("tsv_m", items), (left * np.concatenate([p[1] for p in parts])) @ right.T)


def test_knots_ties(build: Any) -> None:
    updates = dense(adapters(build))
    stacked = np.hstack(updates)
    u, s, vt = truncated_svd(stacked, rank_of(stacked))
    parts = np.split(s[:, None] * vt, len(updates), axis=1)
    trimmed = [keep_largest(p, int(0.2 * p.size)) for p in parts]
    assert_close(merged("knots", adapters(build)), u @ agreeing_mean(trimmed, ONES))


def test_core_ties(build: Any) -> None:
    updates = dense(adapters(build))
    left = truncated_svd(np.hstack(updates), 9)[0]
    right = truncated_svd(np.vstack(updates), 9)[2].T
    trimmed = [keep_largest(m, int(0.2 * m.size)) for m in (left.T @ u @ right for u in updates)]
    assert_close(merged("core_ties", adapters(build)), left @ agreeing_mean(trimmed, ONES) @ right.T)


def similar(build: Any, cosine_noise: float = 0.4) -> list[Adapter]:
    shared = build.random_factors(*SHAPE, 3, seed=80)
    items = []
    for index in range(3):
        own = build.random_factors(*SHAPE, 3, seed=81 + index)
        both = LoraFactors(torch.cat([shared.b, cosine_noise * own.b], 1), torch.cat([shared.a, own.a], 0))
        items.append(Adapter.from_factors({MODULE: both}, name=f"a{index}", weight=1.0 + index))
    return items


def test_model_stock(build: Any) -> None:
    updates = dense(similar(build))
    flat = [u.flatten() / np.linalg.norm(u) for u in updates]
    cosine = np.mean([flat[0] @ flat[1], flat[0] @ flat[2], flat[1] @ flat[2]])
    share = 3 * cosine / (1 + 2 * cosine)
    assert 0.5 < share < 1.0
    assert_close(merged("model_stock", similar(build)), share * np.mean(np.stack(updates), axis=0))


def test_model_stock_of_opposed_updates_is_the_base_and_of_one_an_error(build: Any) -> None:
    first = adapters(build)[0]
    opposed = [first, first.with_(name="other", weight=-0.5)]
    assert float(np.abs(merged("model_stock", opposed)).max()) == 0.0
    with pytest.raises(MergeError, match="'model_stock' reads the angle between updates: give it at least two"):
        merged("model_stock", [first])


@pytest.mark.parametrize(
    ("method", "options"),
    [("dare_linear", {}), ("core_dare", {"density": 0.3}), ("della", {"elect": False})],
    ids=["dare_linear", "core_dare", "della"],
)
def test_mean_over_seeds_is_the_weighted_sum(build: Any, method: str, options: dict[str, Any]) -> None:
    drawn = np.stack([merged(method, adapters(build), seed=seed, **options) for seed in range(SEEDS)])
    deviation = drawn.mean(0) - np.asarray(sum(dense(adapters(build))))
    assert (deviation**2).sum() <= 1.6 * drawn.var(0, ddof=1).sum() / SEEDS


@pytest.mark.parametrize("method", ["dare_ties", "della"])
def test_mean_over_seeds_of_one_adapter_is_the_adapter(build: Any, method: str) -> None:
    alone = adapters(build, (1.0,))
    drawn = np.stack([merged(method, alone, seed=seed) for seed in range(SEEDS)])
    assert ((drawn.mean(0) - dense(alone)[0]) ** 2).sum() <= 1.6 * drawn.var(0, ddof=1).sum() / SEEDS


def test_dare_keeps_and_rescales_single_entries(build: Any) -> None:
    alone = adapters(build, (1.0,))
    (tau,) = dense(alone)
    found = merged("dare_linear", alone, density=0.25)
    kept = np.abs(found) > 1e-9
    assert np.allclose(found[kept], tau[kept] / 0.25)
    # 240 independent entries: 60 expected, standard deviation 6.7.
    assert 33 <= int(kept.sum()) <= 87
    l1 = merged("dare_linear", alone, density=0.25, rescale="l1")
    assert np.abs(l1).sum() == pytest.approx(np.abs(tau).sum())
    assert np.allclose(merged("dare_linear", alone, density=0.25, rescale="none")[kept], tau[kept])


@pytest.mark.parametrize("rescale", ["paper", "l1"])
def test_dare_in_blocks_of_rows_has_the_draws_of_whole_matrices(
    build: Any, rescale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sst_merge.methods.parts.updates.BLOCK", 16)  # a row or two at a time
    items, expected = adapters(build), np.zeros(SHAPE)
    for adapter, tau in zip(items, dense(items), strict=True):
        seed = named_generator(module_generator(5, MODULE).initial_seed(), adapter.name).initial_seed()
        rows, columns = tau.shape
        words = np.random.PCG64(seed).random_raw(rows * ((columns + 1) // 2)).reshape(rows, -1)
        drawn = np.stack([words & 0xFFFFFFFF, words >> 32], axis=-1).reshape(rows, -1)[:, :columns] / 2.0**32
        kept = tau * (drawn < 0.4)
        factor = 1 / 0.4 if rescale == "paper" else np.abs(tau).sum() / np.abs(kept).sum()
        expected = expected + factor * kept
    assert_close(merged("dare_linear", items, seed=5, density=0.4, rescale=rescale), expected)


def test_della_drops_small_entries_more_often(build: Any) -> None:
    """Frequencies of every rank within its row follow p_r = p − ε/2 + ε r / n."""
    alone = adapters(build, (1.0,))
    (tau,) = dense(alone)
    kept = np.mean([np.abs(merged("della", alone, seed=s, epsilon=0.5)) > 1e-9 for s in range(SEEDS)], axis=0)
    by_rank = np.take_along_axis(kept, np.argsort(-np.abs(tau), axis=1), axis=1).mean(0)
    n = SHAPE[1]
    expected = 1.0 - (0.7 - 0.25 + 0.5 / n * np.arange(n))
    # Every frequency is a mean over 12 rows and all seeds.
    assert np.all(np.abs(by_rank - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / (SHAPE[0] * SEEDS)))


def test_core_dare_stays_in_the_span_and_dare_does_not(build: Any) -> None:
    assert rank_of(merged("core_dare", adapters(build), density=0.5)) <= 9
    assert rank_of(merged("dare_linear", adapters(build), density=0.5)) == 12


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"density": 1.0}),
        ("magnitude_prune", {"density": 1.0}),
        ("localize_and_stitch", {"density": 1.0}),
        ("compress_then_merge", {"density": 1.0}),
        ("dare_linear", {"density": 1.0}),
        ("dare_ties", {"density": 1.0}),
        ("della", {"density": 1.0, "epsilon": 0.0}),
        ("breadcrumbs", {"density": 1.0, "gamma": 0.0}),
        ("knots", {"density": 1.0}),
        ("core_ties", {"density": 1.0}),
        ("core_dare", {"density": 1.0}),
        ("subspace_boosting", {"beta": 1.0}),
    ],
)
def test_lossy_methods_give_one_adapter_back_at_their_neutral_option(
    build: Any, method: str, options: dict[str, Any]
) -> None:
    alone = adapters(build, (1.0,))
    assert_close(merged(method, alone, **options), dense(alone)[0])


@pytest.mark.parametrize(
    "method",
    ["cart", "iso_c", "iso_cts", "subspace_boosting", "tsv_m", "knots", "core_ties", "pico", "compress_then_merge"],
)
def test_rounding_noise_is_never_raised(build: Any, method: str) -> None:
    """Three copies of a rank-4 adapter in float32: every direction beyond the fourth is noise."""
    factors = build.random_factors(256, 200, 4, seed=90, dtype=torch.float32)
    items = [Adapter.from_factors({MODULE: factors}, name=f"a{i}", weight=0.3 + i) for i in range(3)]
    result = merge(items, method).adapter.delta(MODULE, dtype=torch.float64)
    values = torch.linalg.svdvals(result)
    assert float(values[0]) > 1e-2
    assert float(values[4]) <= 1e-5 * float(values[0])


@settings(max_examples=100)
@given(st.data())
def test_magnitude_threshold_is_a_sorted_entry(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([32, 64]))
    number = st.one_of(st.floats(width=width, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0]))
    values = data.draw(st.lists(number, min_size=1, max_size=40))
    keep = data.draw(st.integers(1, len(values)))
    tensor = torch.tensor(values, dtype=torch.float32 if width == 32 else torch.float64)
    assert float(magnitude_threshold(tensor, keep)) == sorted(tensor.abs().tolist(), reverse=True)[keep - 1]


def test_magnitude_threshold_of_many_values() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.randn(300, 500, generator=torch.Generator().manual_seed(3), dtype=dtype)
        ordered = values.abs().flatten().sort(descending=True).values
        for keep in (1, 7, 30_000, 149_999, 150_000):
            assert float(magnitude_threshold(values, keep)) == float(ordered[keep - 1])


def test_significant_svd_of_zero_is_empty() -> None:
    left, values, right = significant_svd(torch.zeros(4, 6))
    assert (left.shape, values.shape, right.shape) == ((4, 0), (0,), (0, 6))


def test_options_that_contradict_each_other_name_the_method(build: Any) -> None:
    with pytest.raises(OptionError, match=r"'della'.*density ± epsilon/2 must lie in \(0, 1\], found -0\.025 … 0\.125"):
        merged("della", adapters(build), density=0.05)
    with pytest.raises(OptionError, match=r"'breadcrumbs'.*density \+ gamma must not exceed 1, found 0\.995 \+ 0\.01"):
        merged("breadcrumbs", adapters(build), density=0.995)
    with pytest.raises(OptionError, match="option 'density' = 0 of method 'ties'"):
        merged("ties", adapters(build), density=0)


# PEFT on the same adapters, on disk. Full SVD rank, so that its ΔW is not truncated.


class PeftPair:
    """Two adapters with different scales as PEFT saves them, in PEFT and here."""

    def __init__(self, build: Any, folder: Path) -> None:
        from peft import PeftModel

        base = build.tiny_model("llama")
        targets = ["q_proj", "down_proj"]
        paths = [
            build.adapter_folder(base, folder / "a", seed=1, targets=targets, r=4, lora_alpha=6),
            build.adapter_folder(base, folder / "b", seed=2, targets=targets, r=4, lora_alpha=3),
        ]
        self.model: Any = PeftModel.from_pretrained(base, str(paths[0]), adapter_name="a")
        self.model.load_adapter(str(paths[1]), "b")
        self.adapters = [Adapter.load(path) for path in paths]
        self.modules = self.adapters[0].modules

    def peft(self, kind: str, weights: tuple[float, float], **options: Any) -> dict[str, Array]:
        if kind.endswith("svd"):
            options["svd_rank"] = 16
        self.model.add_weighted_adapter(["a", "b"], list(weights), "m", combination_type=kind, **options)
        found = self.deltas("m")
        self.model.delete_adapter("m")
        return found

    def deltas(self, name: str) -> dict[str, Array]:
        base = self.model.base_model.model
        with torch.no_grad():
            return {m: base.get_submodule(m).get_delta_weight(name).double().numpy() for m in self.modules}

    def ours(self, method: str, weights: tuple[float, float], **options: Any) -> dict[str, Array]:
        items = [a.with_(weight=w) for a, w in zip(self.adapters, weights, strict=True)]
        result = merge(items, method, **options)
        return {m: result.adapter.delta(m, dtype=torch.float64).numpy() for m in self.modules}


@pytest.fixture(scope="module")
def pair(build: Any, tmp_path_factory: pytest.TempPathFactory) -> PeftPair:
    return PeftPair(build, tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(
    ("kind", "method", "weights", "options", "ours"),
    [
        ("svd", "svd", (0.7, 0.4), {}, {}),
        ("ties_svd", "ties", (1.0, 1.0), {"density": 0.3}, {}),
        ("ties_svd", "ties", (0.6, 0.6), {"density": 0.55}, {}),
        ("magnitude_prune_svd", "magnitude_prune", (0.7, 0.4), {"density": 0.3}, {}),
    ],
    ids=["svd", "ties", "ties-scaled", "magnitude_prune"],
)
def test_peft_on_delta_agrees(
    pair: PeftPair,
    kind: str,
    method: str,
    weights: tuple[float, float],
    options: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    expected, found = pair.peft(kind, weights, **options), pair.ours(method, weights, **options, **ours)
    for module in pair.modules:
        assert_close(found[module], expected[module], 1e-5)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_peft_dare_with_the_same_dropped_entries_agrees(
    pair: PeftPair, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our masks, read off merges where one weight is 0, take the place of PEFT's own draws."""
    single = [pair.ours("dare_linear", weights, density=0.4, seed=5) for weights in ((1.0, 0.0), (0.0, 1.0))]
    masks = [{m: np.abs(found[m]) > 1e-5 * np.abs(found[m]).max() for m in pair.modules} for found in single]
    # PEFT visits modules in the model's order and draws for adapter after adapter, once per module.
    order = [name for name, _ in pair.model.base_model.model.named_modules() if name in pair.modules]
    queue = iter([torch.tensor(mask[m]) for m in order for mask in masks])
    monkeypatch.setattr("peft.utils.merge_utils.torch.bernoulli", lambda probability: next(queue).to(probability))
    expected = pair.peft(f"{method}_svd", (1.0, 1.0), density=0.4)
    found = pair.ours(method, (1.0, 1.0), density=0.4, seed=5)
    for module in pair.modules:
        assert_close(found[module], expected[module], 1e-5)


def test_peft_linear_is_another_thing_than_the_weighted_sum(pair: PeftPair) -> None:
    """The known deviation: (Σ √wᵢ Bᵢ)(Σ √wᵢ Aᵢ) has cross terms, as large as the sum itself."""
    weights = (0.6, 0.4)
    theirs, ours = pair.peft("linear", weights), pair.ours("linear", weights)
    faithful = pair.peft("svd", weights)
    for module in pair.modules:
        factors = [a.factors(module, dtype=torch.float64) for a in pair.adapters]
        scales = [6 / 4, 3 / 4]
        # B carries its scale s here; PEFT puts √(w s) on either side.
        b = sum(np.sqrt(w / s) * f.b.numpy() for w, s, f in zip(weights, scales, factors, strict=True))
        a = sum(np.sqrt(w * s) * f.a.numpy() for w, s, f in zip(weights, scales, factors, strict=True))
        assert_close(theirs[module], np.asarray(b @ a), 1e-5)
        assert_close(ours[module], faithful[module], 1e-5)
        assert np.linalg.norm(theirs[module] - ours[module]) > 0.3 * np.linalg.norm(ours[module])


def test_peft_elects_signs_before_weighting(pair: PeftPair) -> None:
    """The known deviation of ``ties_svd``: a weight of 0.01 still votes in full."""
    weights = (1.0, 0.01)
    theirs, ours = pair.peft("ties_svd", weights, density=0.999), pair.ours("ties", weights, density=0.999)
    for module in pair.modules:
        first, second = (a.delta(module, dtype=torch.float64).numpy() for a in pair.adapters)
        outvoted = (np.sign(first) != np.sign(second)) & (np.abs(second) > 1.2 * np.abs(first))
        outvoted &= np.abs(first) > 0.1 * np.abs(first).max()
        assert int(outvoted.sum()) >= 3
        assert np.array_equal(np.sign(theirs[module][outvoted]), np.sign(second[outvoted]))
        assert np.array_equal(np.sign(ours[module][outvoted]), np.sign(first[outvoted]))


def mergekit(part: str) -> Any:
    return pytest.importorskip(f"mergekit.{part}", reason="mergekit is not installed: its deviations stay untested")


def test_mergekit_trims_alike_and_rescales_dare_by_l1(build: Any) -> None:
    sparsify = mergekit("sparsify")
    alone = adapters(build, (1.0,))
    tau = torch.from_numpy(dense(alone)[0])
    trimmed = sparsify.magnitude(tau, density=0.3)
    assert_close(merged("magnitude_prune", alone, density=0.3), trimmed.numpy())
    kept = torch.from_numpy(merged("dare_linear", alone, density=0.3, rescale="none")).abs() > 1e-9
    rescaled = sparsify.rescaled_masked_tensor(tau, kept.to(tau), sparsify.RescaleNorm.l1)
    assert_close(merged("dare_linear", alone, density=0.3, rescale="l1"), rescaled.numpy())
    paper = merged("dare_linear", alone, density=0.3)
    assert np.linalg.norm(paper - rescaled.numpy()) > 0.01 * np.linalg.norm(paper)


def test_mergekit_divides_ties_by_surviving_weights(build: Any) -> None:
    election = mergekit("merge_methods.generalized_task_arithmetic")
    weights = (1.0, 0.5, 0.25)
    weighted = torch.stack([torch.from_numpy(u) for u in dense(adapters(build, weights))])
    mask = election.get_mask(weighted, method="sum")
    shares = torch.tensor(weights, dtype=torch.float64)[:, None, None] * mask
    theirs = ((weighted * mask).sum(0) / shares.sum(0).clamp_min(1e-30)).numpy()
    assert_close(merged("ties", adapters(build, weights), density=1.0, normalize="weights"), theirs)
    assert np.linalg.norm(merged("ties", adapters(build, weights), density=1.0) - theirs) > 0.1 * np.linalg.norm(theirs)
