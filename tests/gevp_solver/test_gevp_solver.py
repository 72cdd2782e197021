"""The GEVP solvers against dense float64 references from SciPy, and the algebra they promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from sst_merge.errors import FisherError, MergeError
from sst_merge.fim_calculator import Fisher
from sst_merge.fim_calculator.structures import BlockFisher, DiagonalFisher, KroneckerFisher, SampleGradients
from sst_merge.gevp_solver import (
    DampedFisher,
    LayeredGEVP,
    OperatorSum,
    compute_safety_efficiency,
    lobpcg_gevp,
    rayleigh_quotients,
    select_safety_subspace,
    solve_gevp,
    solve_linear,
)
from sst_merge.gevp_solver.kronecker_sum import KroneckerSum
from sst_merge.sst import project_to_safety_subspace
from sst_merge.sst.projection import soft_filter

P, Q = 4, 3


def samples(n: int, seed: int, p: int = P, q: int = Q) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1.5, p * q, dtype=torch.float64).reshape(p, q)
    return torch.randn(n, p, q, generator=generator, dtype=torch.float64) * scale


def structured(kind: str, rows: torch.Tensor, weight: float = 1.0):
    n = len(rows)
    if kind == "lowrank":
        return SampleGradients(samples=n, rows=rows, weight=weight)
    if kind == "block":
        flat = rows.reshape(n, -1)
        return BlockFisher(samples=n, outer=flat.T @ flat, core_shape=(rows.shape[1], rows.shape[2]), weight=weight)
    if kind == "diagonal":
        return DiagonalFisher(samples=n, gradient_sum=rows.sum(0), square_sum=rows.square().sum(0), weight=weight)
    e, z = rows.sum(2), rows.sum(1)
    return KroneckerFisher(samples=n, tokens=n, gradient_outer=e.T @ e, input_outer=z.T @ z, weight=weight)


def dense_reference(layer, damping: float, kind: str) -> np.ndarray:
    """The damped dense operator, built here and not by the solver."""
    if kind == "kronecker":
        sides = [layer.grad_factor.numpy(), layer.input_factor.numpy()]
        root = damping**0.5
        return np.kron(*[s + root * np.trace(s) / len(s) * np.eye(len(s)) for s in sides])
    f = layer.dense().numpy()
    return f + damping * np.trace(f) / len(f) * np.eye(len(f))


@pytest.mark.parametrize("kind", ["diagonal", "kronecker", "block", "lowrank"])
@pytest.mark.parametrize("damping", [1e-2, 0.3])
def test_layer_solution_equals_dense_eigh(kind: str, damping: float) -> None:
    harm, benign = structured(kind, samples(50, 0)), structured(kind, samples(60, 1))
    result = solve_gevp(harm, benign, damping=damping, harm_damping=0.0)
    f_h, f_b = dense_reference(harm, 0.0, kind), dense_reference(benign, damping, kind)
    expected = eigh(f_h, f_b, eigvals_only=True)[::-1]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-9, atol=1e-12)
    v = result.eigenvectors.numpy()
    np.testing.assert_allclose(v.T @ f_b @ v, np.eye(P * Q), atol=1e-9)
    np.testing.assert_allclose(f_h @ v, f_b @ v * result.eigenvalues.numpy(), atol=1e-8)
    assert (result.eigenvalues > 0).all()


@pytest.mark.parametrize("kind", ["diagonal", "kronecker", "block", "lowrank"])
def test_soft_filter_minimises_the_objective(kind: str) -> None:
    """V h(Λ) VᵀF_b D solves the quadratic problem of the design, here by a dense linear system."""
    mu, damping = 0.7, 0.05
    harm, benign = structured(kind, samples(40, 2)), structured(kind, samples(40, 3))
    patch = samples(1, 4)[0]
    filtered = solve_gevp(harm, benign, damping=damping, harm_damping=0.0).apply(patch, soft_filter(mu))
    f_h, f_b = dense_reference(harm, 0.0, kind), dense_reference(benign, damping, kind)
    expected = np.linalg.solve(f_h + mu * f_b, f_h @ patch.reshape(-1).numpy())
    np.testing.assert_allclose(filtered.reshape(-1), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["diagonal", "kronecker", "block"])
def test_projection_is_idempotent_and_f_b_orthogonal(kind: str) -> None:
    damping = 0.02
    harm, benign = structured(kind, samples(40, 5)), structured(kind, samples(40, 6))
    subspace = select_safety_subspace(solve_gevp(harm, benign, damping=damping, harm_damping=0.0), 5)
    patch = samples(1, 7)[0]
    once = project_to_safety_subspace(patch, subspace)
    assert not torch.allclose(once, patch, atol=1e-3)
    torch.testing.assert_close(project_to_safety_subspace(once, subspace), once, rtol=1e-9, atol=1e-11)
    f_b = dense_reference(benign, damping, kind)
    residual = (patch - once).reshape(-1).numpy()
    np.testing.assert_allclose(subspace.eigenvectors.numpy().T @ f_b @ residual, 0.0, atol=1e-10)


def two_layer_fishers(seed: int, n: int) -> tuple[Fisher, torch.Tensor]:
    rows = {"a": samples(n, seed), "b": samples(n, seed + 100, 2, 5)}
    layers = {m: SampleGradients(samples=n, rows=r) for m, r in rows.items()}
    flat = torch.cat([r.reshape(n, -1) for r in rows.values()], dim=1)
    return Fisher("lowrank", layers, n, "same"), flat.T @ flat / n


def test_gram_form_equals_dense_across_layers() -> None:
    """Structure lowrank: harm and benign samples fewer than parameters, against the dense problem, to 1e-9."""
    damping, eta, mu = 0.05, 0.3, 0.9
    (harm, f_h), (benign, f_b) = two_layer_fishers(0, 6), two_layer_fishers(1, 7)
    gevp = solve_gevp(harm, benign, damping=damping, harm_damping=eta)
    ridge = torch.cat([
        torch.full((f.shape[0] * f.shape[1],), damping * f.trace() / (f.shape[0] * f.shape[1]), dtype=torch.float64)
        for f in benign.layers.values()
    ])
    dense_h, dense_b = f_h + torch.diag(eta * ridge), f_b + torch.diag(ridge)
    patch = {"a": samples(1, 8)[0], "b": samples(1, 9, 2, 5)[0]}
    flat = torch.cat([patch["a"].reshape(-1), patch["b"].reshape(-1)])
    for gains, expected in (
        (soft_filter(mu), torch.linalg.solve(dense_h + mu * dense_b, dense_h @ flat)),
        (torch.ones_like, flat),
    ):
        found = gevp.apply(patch, gains)
        found_flat = torch.cat([found["a"].reshape(-1), found["b"].reshape(-1)])
        torch.testing.assert_close(found_flat, expected, rtol=1e-9, atol=1e-9)
    values = eigh(dense_h.numpy(), dense_b.numpy(), eigvals_only=True)[::-1]
    np.testing.assert_allclose(gevp.eigenvalues, np.delete(values, np.isclose(values, eta, atol=1e-9)), rtol=1e-8)
    v = gevp.direction(0)
    flat_v = torch.cat([v["a"].reshape(-1), v["b"].reshape(-1)])
    assert float(flat_v @ dense_b @ flat_v) == pytest.approx(1.0, abs=1e-9)
    assert float(flat_v @ dense_h @ flat_v) == pytest.approx(float(gevp.eigenvalues[0]), rel=1e-8)


def test_gram_top_is_a_projection() -> None:
    (harm, _), (benign, _) = two_layer_fishers(2, 6), two_layer_fishers(3, 7)
    top = solve_gevp(harm, benign, 4, damping=0.05, harm_damping=0.05)
    patch = {"a": samples(1, 8)[0], "b": samples(1, 9, 2, 5)[0]}
    once = project_to_safety_subspace(patch, top)
    twice = project_to_safety_subspace(once, top)
    for module in patch:
        torch.testing.assert_close(twice[module], once[module], rtol=1e-9, atol=1e-10)
    assert sum(float(c.norm()) for c in once.values()) > 0


def test_whole_model_keeps_k_directions_per_layer() -> None:
    layers = [{m: structured("block", samples(30, s)) for m in ("a", "b")} for s in (0, 1)]
    harm, benign = (Fisher("block", layer, 30, "same") for layer in layers)
    result = solve_gevp(harm, benign, 3)
    assert isinstance(result, LayeredGEVP)
    assert [len(r.eigenvalues) for r in result.layers.values()] == [3, 3]
    assert len(result.eigenvalues) == 6


def test_plain_arrays() -> None:
    f_h, f_b = structured("block", samples(40, 0)).dense(), structured("block", samples(40, 1)).dense()
    result = solve_gevp(f_h.numpy(), f_b.numpy(), k=4, damping=0.0)
    expected = eigh(f_h.numpy(), f_b.numpy(), eigvals_only=True)[::-1][:4]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-9)
    assert result.eigenvectors.shape == (P * Q, 4)
    v = result.eigenvectors
    torch.testing.assert_close(v.T @ f_b @ v, torch.eye(4, dtype=torch.float64), atol=1e-10, rtol=0)
    assert compute_safety_efficiency(v[:, 0], f_h, f_b) == pytest.approx(float(result.eigenvalues[0]), rel=1e-9)


def test_a_patch_of_plain_arrays_keeps_its_shape() -> None:
    f_h, f_b = structured("block", samples(40, 0)).dense(), structured("block", samples(40, 1)).dense()
    subspace = select_safety_subspace(solve_gevp(f_h, f_b, damping=0.1), 3)
    patch = samples(1, 7)[0].flatten()
    projected = project_to_safety_subspace(patch, subspace)
    damped = f_b + 0.1 * f_b.diagonal().mean() * torch.eye(P * Q, dtype=torch.float64)
    v = subspace.eigenvectors
    assert projected.shape == (P * Q,)
    torch.testing.assert_close(projected, v @ (v.T @ damped @ patch), rtol=1e-9, atol=1e-12)
    column = project_to_safety_subspace(patch[:, None], subspace)
    torch.testing.assert_close(column, projected[:, None])


def test_the_default_damps_both_fishers_alike() -> None:
    """ρ = 0.1 of both, as in SST-Merge: directions that no sample sees have λ = 1 where the traces agree."""
    f_h, f_b = (torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([3.0, 1.0, 0.0], [1.0, 3.0, 0.0]))
    expected = torch.tensor([(3 + 0.4 / 3) / (1 + 0.4 / 3), 1.0, (1 + 0.4 / 3) / (3 + 0.4 / 3)], dtype=torch.float64)
    torch.testing.assert_close(solve_gevp(f_h, f_b).eigenvalues, expected)


def test_efficiency_of_layers_equals_dense_quotient() -> None:
    harm, benign = structured("kronecker", samples(30, 0)), structured("kronecker", samples(30, 1))
    v = samples(1, 5)[0]
    flat = v.reshape(-1)
    expected = float(flat @ harm.dense() @ flat) / float(flat @ benign.dense() @ flat)
    assert compute_safety_efficiency(v, harm, benign) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(FisherError, match="neither Fisher sees"):
        compute_safety_efficiency(torch.zeros(P, Q), harm, benign)


def test_identical_data_overfit_in_sample_and_are_honest_held_out() -> None:
    """Harm and benign from one distribution: λ₁ is large with few samples, its held-out quotient is near 1."""
    n, dimension = 30, (6, 6)
    draws = [torch.randn(n, *dimension, generator=torch.Generator().manual_seed(s)).double() for s in range(2)]
    held = [torch.randn(4000, *dimension, generator=torch.Generator().manual_seed(s)).double() for s in (7, 8)]
    result = solve_gevp(structured("block", draws[0]), structured("block", draws[1]), damping=1e-3, harm_damping=0.0)
    assert float(result.eigenvalues[0]) > 50
    rows = [h.reshape(len(h), -1) / len(h) ** 0.5 for h in held]
    quotients = rayleigh_quotients(result.eigenvectors[:, :8], *rows)
    assert ((quotients > 0.85) & (quotients < 1.15)).all()


def kronecker_sum(weights: tuple[float, ...], damping: float) -> tuple[OperatorSum, np.ndarray]:
    terms = tuple(structured("kronecker", samples(20, 30 + i)) for i in range(len(weights)))
    dense = sum(w * t.dense() for w, t in zip(weights, terms, strict=True))
    dense = dense + damping * dense.diagonal().mean() * torch.eye(P * Q, dtype=torch.float64)
    return OperatorSum(tuple(DampedFisher(t, damping) for t in terms), weights), dense.numpy()


def test_conjugate_gradients_solve_a_sum_of_kronecker_products() -> None:
    operator, dense = kronecker_sum((1.0, 0.5, 2.0), 0.01)
    target = samples(1, 3)[0]
    expected = np.linalg.solve(dense, target.reshape(-1).numpy())
    np.testing.assert_allclose(solve_linear(operator, target).reshape(-1), expected, rtol=1e-7)


def test_a_sum_of_kronecker_products_is_one_batched_product() -> None:
    inner, _ = kronecker_sum((1.0, 0.5, 2.0), 0.01)
    operator = OperatorSum((inner, DampedFisher(structured("kronecker", samples(20, 99)), 0.3)), (0.7, 1.5))
    found = KroneckerSum.of(operator)
    assert found is not None and len(found.left) == 4
    core = samples(1, 3)[0].double()
    np.testing.assert_allclose(found.matvec(core), operator.matvec(core), rtol=1e-12)
    mixed = OperatorSum((inner, DampedFisher(structured("diagonal", samples(20, 9)), 0.3)), (1.0, 1.0))
    assert KroneckerSum.of(mixed) is None


def test_the_preconditioner_of_one_term_is_its_inverse() -> None:
    operator, dense = kronecker_sum((2.0,), 0.05)
    found = KroneckerSum.of(operator)
    assert found is not None
    core = samples(1, 3)[0].double()
    expected = np.linalg.solve(dense, core.reshape(-1).numpy())
    np.testing.assert_allclose(found.rough_inverse()(core).reshape(-1), expected, rtol=1e-7)


def test_the_preconditioner_of_two_terms_is_their_inverse() -> None:
    """Two Kronecker products have one basis in which both are diagonal, which no orthogonal one is."""
    operator, dense = kronecker_sum((2.0, 0.3), 0.0)
    found = KroneckerSum.of(operator)
    assert found is not None and found.first == 1
    core = samples(1, 3)[0].double()
    expected = np.linalg.solve(dense, core.reshape(-1).numpy())
    np.testing.assert_allclose(found.rough_inverse()(core).reshape(-1), expected, rtol=1e-6)


def test_an_operator_beside_which_the_other_sees_nothing_is_solved() -> None:
    rows = samples(20, 30)
    harm, nothing = structured("kronecker", rows), structured("kronecker", torch.zeros_like(rows))
    operator = OperatorSum((DampedFisher(harm, 0.0), DampedFisher(nothing, 0.0)), (1.0, 0.5))
    target = samples(1, 3)[0]
    expected = np.linalg.solve(harm.dense().numpy(), target.reshape(-1).numpy())
    np.testing.assert_allclose(solve_linear(operator, target).reshape(-1), expected, rtol=1e-6)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("mu", [0.01, 1.0, 30.0])
def test_two_operators_take_fewer_steps_in_a_basis_for_both(
    mu: float, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F_h + μ Σ Fᵢ over spectra of many decades, the Fᵢ alike: the same solution in fewer products."""
    generator = torch.Generator().manual_seed(0)
    sides = [torch.linalg.qr(torch.randn(n, n, generator=generator).double()).Q for n in (12, 16)]

    def fisher(turned: float) -> KroneckerFisher:
        factors = []
        for side in sides:
            n = len(side)
            basis = torch.linalg.qr(side + turned * torch.randn(n, n, generator=generator).double()).Q
            spectrum = torch.logspace(0, -3, n, dtype=torch.float64)
            factors.append(basis @ torch.diag(spectrum) @ basis.T)
        return KroneckerFisher(samples=1, tokens=1, gradient_outer=factors[0], input_outer=factors[1])

    harm, *benign = (DampedFisher(fisher(turned), 1e-3) for turned in (3.0, 0.01, 0.01, 0.01))
    if nested:
        operator = OperatorSum((harm, OperatorSum(tuple(benign), (1.0, 1.0, 1.0))), (1.0, mu))
    else:  # one term outweighs the others
        operator = OperatorSum((*benign, harm), (1.0, 1.0, 1.0, 3.0 * mu + 3.0))
    target = torch.randn(operator.shape, generator=generator).double()
    plain, taken = KroneckerSum.matvec, []
    monkeypatch.setattr(KroneckerSum, "matvec", lambda self, core: taken.append(None) or plain(self, core))
    found, steps = solve_linear(operator, target), len(taken)
    whole = KroneckerSum.of(operator)
    monkeypatch.setattr(KroneckerSum, "of", lambda _: replace(whole, first=0))
    expected = solve_linear(operator, target)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    assert steps < 0.7 * (len(taken) - steps)


def test_lobpcg_finds_the_largest_directions_of_a_sum() -> None:
    benign, dense_b = kronecker_sum((1.0, 0.5), 0.05)
    layer = structured("block", samples(40, 9))
    f_h = layer.dense().numpy()
    result = lobpcg_gevp(DampedFisher(layer, 0.0), benign, 2)
    expected = eigh(f_h, dense_b, eigvals_only=True)[::-1][:2]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-6)
    v = result.eigenvectors.numpy()
    np.testing.assert_allclose(v.T @ dense_b @ v, np.eye(2), atol=1e-6)


def test_bad_input_is_refused() -> None:
    good = torch.eye(3, dtype=torch.float64)
    skew = good.clone()
    skew[0, 1] = 1.0
    with pytest.raises(FisherError, match="not symmetric"):
        solve_gevp(skew, good)
    with pytest.raises(FisherError, match="NaN"):
        solve_gevp(good * float("nan"), good)
    with pytest.raises(FisherError, match="not positive definite"):
        solve_gevp(good, torch.diag(torch.tensor([1.0, 1.0, 0.0])), damping=0.0)
    with pytest.raises(FisherError, match="k = 9"):
        solve_gevp(good, good, k=9)
    with pytest.raises(FisherError, match="damping must be"):
        solve_gevp(good, good, damping=-1.0)
    with pytest.raises(FisherError, match="same structure"):
        solve_gevp(structured("block", samples(5, 0)), structured("diagonal", samples(5, 0)))
    with pytest.raises(MergeError, match="best directions"):
        select_safety_subspace(solve_gevp(good, good), 4)
    with pytest.raises(FisherError, match="needs damping > 0"):
        solve_gevp(two_layer_fishers(0, 5)[0], two_layer_fishers(1, 5)[0], damping=0.0)
