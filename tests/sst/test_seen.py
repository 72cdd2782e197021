"""What the report says that a merge saw, against dense eigenvalues and dense ΔW."""

from typing import Any

import pytest
import torch
from scipy.linalg import eigh
from tests.sst.conftest import TWO as SHAPES
from tests.sst.conftest import batches

from sst_merge import merge
from sst_merge.data_loader.batch import Batch
from sst_merge.fim_calculator import build_spaces
from sst_merge.gevp_solver import solve_gevp
from sst_merge.gevp_solver.solve import LayeredGEVP
from sst_merge.lora_utils import Adapter
from sst_merge.methods import MergeProblem
from sst_merge.sst import SSTMerge, SSTOptions
from sst_merge.sst.seen import spectrum

BLOCK = {"structure": "block", "point": "merged"}


def some(seed: int) -> list[Batch]:
    return batches(seed, n=8, size=8, length=6)


def report(model: Any, adapters: list[Adapter], **options: Any) -> tuple[Any, dict[str, Any]]:
    inputs = {"harm": some(1), "benign": some(2), "compute_dtype": torch.float64}
    result = merge(adapters, "sst", model=model, fisher=BLOCK, calibration_holdout=0, **inputs, **options)
    return result, dict(result.report.method_report)


def test_the_spectrum_is_the_pencils_and_what_moved_is_the_merges(model: Any, adapters: list[Adapter]) -> None:
    result, found = report(model, adapters, mu=0.5)
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, some(1), some(2))
    harm, benign, _ = SSTMerge(problem, SSTOptions(mu=0.5, fisher=BLOCK, calibration_holdout=0)).fishers

    def damped(fisher: torch.Tensor) -> Any:
        return (fisher + 0.1 * fisher.diagonal().mean() * torch.eye(len(fisher))).numpy()

    every = []
    for module in SHAPES:
        dense = [of.layers[module].dense() for of in (harm, benign)]
        values = sorted(eigh(*map(damped, dense), eigvals_only=True), reverse=True)
        every += values
        shown = found["spectrum"]["by_module"][module]
        assert len(values) == len(shown) == 16
        assert shown == pytest.approx(values, rel=1e-4)
    assert found["spectrum"]["directions"] == len(every) == 32
    assert found["spectrum"]["eigenvalues"] == pytest.approx(sorted(every, reverse=True), rel=1e-4)
    assert found["spectrum"]["passed"] == pytest.approx([v / (v + 0.5) for v in sorted(every, reverse=True)], rel=1e-3)
    for module in SHAPES:
        skill, safe = (adapter.delta(module, dtype=torch.float64) for adapter in adapters)
        moved = float((result.adapter.delta(module, dtype=torch.float64) - skill).norm())
        of = found["by_module"][module]
        assert of["moved"] == pytest.approx(moved, rel=1e-4)
        assert of["captured"] == pytest.approx(moved / float(safe.norm()), rel=1e-4)


def test_a_hard_filter_passes_the_best_of_every_layer(model: Any, adapters: list[Adapter]) -> None:
    _, found = report(model, adapters, filter={"hard": 3})
    assert sum(found["spectrum"]["passed"]) == 3 * len(SHAPES)


def test_one_skills_own_fisher_has_the_directions_of_its_filter_and_several_have_none(
    model: Any, adapters: list[Adapter]
) -> None:
    """The sum of F_h and μ F_b, solved in these directions, is the linear system that the merge solves."""
    given = {"mu": 0.5, "utility": "fisher", "adapter_benign": {"skill": some(3), "more": some(4)}}
    _, found = report(model, adapters, **given)
    own = {"skill": some(3)}
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, some(1), some(2), own)
    options = SSTOptions(mu=0.5, utility="fisher", fisher=BLOCK, calibration_holdout=0)
    sst = SSTMerge(problem, options)
    assert sst.directions is not None
    filtered = sst.directions.apply(sst.difference(), lambda values: values / (values + 0.5))
    for module, core in sst.change(mu=0.5).items():
        torch.testing.assert_close(filtered[module], core, rtol=1e-6, atol=1e-9)
    assert found["spectrum"]["directions"] == 32 and set(found["by_module"]) == set(SHAPES)
    more = adapters[0].with_(weight=2.0)
    _, found = report(
        model, [*adapters, Adapter.from_factors({m: more.factors(m) for m in SHAPES}, name="more")], **given
    )
    assert found["spectrum"] is None and set(found["by_module"]) == set(SHAPES)


def test_long_spectra_are_thinned_from_end_to_end() -> None:
    diagonal = torch.arange(1.0, 401.0, dtype=torch.float64)
    solved = solve_gevp(torch.diag(diagonal), torch.eye(400, dtype=torch.float64), damping=0.0)
    found = spectrum(LayeredGEVP({"a": solved}), mu=None, hard=None)
    assert found["directions"] == 400 and found["passed"] is None
    assert len(found["eigenvalues"]) == 64 and len(found["by_module"]["a"]) == 16
    for shown in (found["eigenvalues"], found["by_module"]["a"]):
        assert (shown[0], shown[-1]) == (400.0, 1.0)
        assert shown == sorted(shown, reverse=True)
