"""The skills' own Fishers before they are added: what shrinking and equal traces keep, and what they refuse."""

import pytest
import torch

from sst_merge.errors import FisherError
from sst_merge.fim_calculator import Fisher
from sst_merge.fim_calculator.structures import DiagonalFisher, KroneckerFisher
from sst_merge.sst.scaling import equal_traces, skill_layers


def kronecker(seed: int, scale: float = 1.0, p: int = 3, q: int = 4) -> KroneckerFisher:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(5, p, generator=generator, dtype=torch.float64) * scale
    x = torch.randn(9, q, generator=generator, dtype=torch.float64)
    return KroneckerFisher(samples=5, tokens=9, gradient_outer=delta.T @ delta, input_outer=x.T @ x)


def whole(**layers: KroneckerFisher) -> Fisher:
    return Fisher(structure="kronecker", layers=layers, samples=5, fingerprint="core spaces of this test")


def test_whole_shrinkage_leaves_the_gram_matrix_of_the_inputs() -> None:
    """γ = 1: F = (tr G / p) I ⊗ A, RegMean's Gram matrix up to a factor, whatever the gradients' directions."""
    layer = kronecker(1)
    expected = torch.kron(layer.grad_factor.trace() / 3 * torch.eye(3, dtype=torch.float64), layer.input_factor)
    torch.testing.assert_close(layer.output_shrunk(1.0).dense(), expected)


def test_shrinkage_keeps_the_trace_and_condenses_the_spectrum() -> None:
    layer = kronecker(2)
    shrunk = layer.output_shrunk(0.7)
    before = torch.linalg.eigvalsh(layer.grad_factor)
    after = torch.linalg.eigvalsh(shrunk.grad_factor)
    torch.testing.assert_close(after, 0.3 * before + 0.7 * before.mean())
    assert shrunk.trace() == pytest.approx(layer.trace(), rel=1e-12)


def test_traces_are_equal_in_every_module() -> None:
    """A skill with large gradients in one module and small ones in another weighs as much as the rest in both."""
    fishers = {"one": whole(a=kronecker(1, 10.0), b=kronecker(2)), "two": whole(a=kronecker(3), b=kronecker(4, 10.0))}
    layers = skill_layers(fishers, output_shrinkage=0.0, equal=True)
    for module, (one, two) in layers.items():
        mean = (fishers["one"].layers[module].trace() + fishers["two"].layers[module].trace()) / 2
        assert one.trace() == pytest.approx(mean, rel=1e-12)
        assert two.trace() == pytest.approx(mean, rel=1e-12)
    ratio = layers["a"][0].dense() / fishers["one"].layers["a"].dense()
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])))


def test_a_module_that_no_gradient_reaches_stays_zero() -> None:
    alive, dead = kronecker(1), kronecker(2, 0.0)
    scaled = equal_traces((alive, dead))
    assert scaled[1].trace() == 0.0
    assert scaled[0].trace() == pytest.approx(alive.trace() / 2, rel=1e-12)


def test_an_adapter_without_any_gradient_is_named() -> None:
    fishers = {"one": whole(a=kronecker(1)), "silent": whole(a=kronecker(2, 0.0))}
    with pytest.raises(FisherError, match="adapter 'silent' is zero"):
        skill_layers(fishers, output_shrinkage=0.7, equal=True)
    assert skill_layers(fishers, output_shrinkage=0.7, equal=False)["a"][1].trace() == 0.0


def test_other_structures_have_no_output_factor() -> None:
    ones = torch.ones(3, 4, dtype=torch.float64)
    layer = DiagonalFisher(samples=2, gradient_sum=ones, square_sum=2 * ones)
    fisher = Fisher(structure="diagonal", layers={"a": layer}, samples=2, fingerprint="core spaces of this test")
    assert skill_layers({"one": fisher}, output_shrinkage=0.7, equal=False)["a"] == (layer,)
