"""A structure is one file: one from the test and the one of the page solve and merge as their dense matrices do."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from torch import Tensor

from sst_merge import merge
from sst_merge.core_space import CoreSpace
from sst_merge.errors import FisherError, OptionError
from sst_merge.fim_calculator import Fisher, build_spaces, compute_fim, point_cores
from sst_merge.fim_calculator.structures import (
    Form,
    LayerFisher,
    SampleSums,
    available_structures,
    fisher_structure,
    registry,
    require_shape,
)
from sst_merge.gevp_solver import compute_safety_efficiency, solve_gevp
from sst_merge.lora_utils import Adapter

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "structure.md"
Part = Callable[[Tensor, tuple[int, int]], Tensor]
SHAPES = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}


def row_blocks(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    """Correlations inside one row of the core alone."""
    row = torch.arange(len(matrix)) // shape[1]
    return matrix * (row[:, None] == row[None, :])


def declare_row_blocks() -> None:
    """A structure of form ``dense`` that says no more than it must: no dense matrix, no diagonal, no trace."""

    class Sums(SampleSums):
        def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
            super().__init__(shape, device)
            self._blocks = self.zeros(shape[0], shape[1], shape[1])

        def consume(self, gradients: Tensor) -> None:
            self._blocks += torch.einsum("npi,npj->pij", gradients.double(), gradients.double())

        def finish(self) -> dict[str, Any]:
            return {"blocks": self._blocks.cpu()}

    @fisher_structure(sums=Sums)
    @dataclass(frozen=True, eq=False, kw_only=True)
    class RowBlocks(LayerFisher):
        structure: ClassVar[str] = "row_blocks"
        form: ClassVar[Form] = "dense"

        blocks: Tensor

        @property
        def shape(self) -> tuple[int, int]:
            return self.blocks.shape[0], self.blocks.shape[1]

        def matvec(self, core: Tensor) -> Tensor:
            rows = require_shape(core, self.shape)
            return torch.einsum("pij,...pj->...pi", self.blocks, rows) * (self.weight / self.samples)


def declare_that_of_the_page() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(code) == 1
    exec(compile(code[0], str(PAGE), "exec"), {"__name__": "page"})


def mean_square(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    assert len(matrix) == shape[0] * shape[1]
    return matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


CASES = [
    pytest.param("row_blocks", declare_row_blocks, row_blocks, id="row blocks"),
    pytest.param("scaled_identity", declare_that_of_the_page, mean_square, id="the page's"),
]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    available_structures()
    monkeypatch.setattr(registry, "_FOUND", dict(registry._FOUND))


@pytest.fixture(scope="module")
def model(build: Any) -> Any:
    return build.tiny_model("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def adapters(build: Any) -> list[Adapter]:
    return [
        build.random_adapter(SHAPES, name="skill", rank=2, seed=1, weight=0.1),
        build.random_adapter(SHAPES, name="safe", rank=1, seed=2, role="safety", weight=0.1),
    ]


@pytest.mark.parametrize(("name", "declare", "part"), CASES)
def test_a_new_structure_is_collected_saved_added_and_solved(
    oracle: Any,
    relative_error: Any,
    name: str,
    declare: Callable[[], None],
    part: Part,
    model: Any,
    adapters: Any,
    tmp_path: Path,
) -> None:
    with pytest.raises(FisherError, match=f"unknown Fisher structure '{name}'.*; known: block, diagonal, kronecker"):
        compute_fim(model, build_spaces(adapters), oracle.batched(oracle.random_samples(3), 3), structure=name)
    declare()
    spaces: dict[str, CoreSpace] = build_spaces(adapters, dtype=torch.float64)
    samples = {"harm": oracle.random_samples(6), "benign": oracle.random_samples(7, seed=1)}
    dense, found = {}, {}
    for kind, drawn in samples.items():
        rows = oracle.sample_gradients(model, spaces, drawn)
        dense[kind] = {m: part(g.flatten(1).T @ g.flatten(1) / len(g), spaces[m].shape) for m, g in rows.items()}
        parts = [
            compute_fim(model, spaces, oracle.batched(some, 2), structure=name, estimator="empirical")
            for some in (drawn[:2], drawn[2:])
        ]
        parts[0].save(tmp_path / "part.safetensors")
        found[kind] = Fisher.load(tmp_path / "part.safetensors") + parts[1]
        for m, layer in found[kind].layers.items():
            assert relative_error(layer.dense(), dense[kind][m]) < 1e-9
            assert relative_error(layer.diagonal().flatten(), dense[kind][m].diagonal()) < 1e-9
            assert layer.trace() == pytest.approx(float(dense[kind][m].trace()))
    result = solve_gevp(found["harm"], found["benign"], damping=0.3, harm_damping=0.0)
    for m in SHAPES:
        f_h, f_b = dense["harm"][m], dense["benign"][m]
        damped = (f_b + 0.3 * f_b.diagonal().mean() * torch.eye(len(f_b), dtype=f_b.dtype)).numpy()
        expected = eigh(f_h.numpy(), damped, eigvals_only=True)[::-1]
        np.testing.assert_allclose(result.layers[m].eigenvalues, expected, rtol=1e-8, atol=1e-10)
        v = torch.randn(spaces[m].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        quotient = float(v.flatten() @ f_h @ v.flatten()) / float(v.flatten() @ f_b @ v.flatten())
        layers = (found["harm"].layers[m], found["benign"].layers[m])
        assert compute_safety_efficiency(v, *layers) == pytest.approx(quotient, rel=1e-8)


@pytest.mark.parametrize(("name", "declare", "part"), CASES)
def test_a_new_structure_merges_as_its_dense_matrix(
    oracle: Any, relative_error: Any, name: str, declare: Callable[[], None], part: Part, model: Any, adapters: Any
) -> None:
    """M_U + (F_h + μ F_b)⁻¹ F_h M_S with both Fishers from autograd, cut down to the structure, and damped."""
    mu, damping = 0.4, 0.2
    batches = {
        kind: oracle.batched(oracle.random_samples(5, seed=seed), 5) for kind, seed in (("harm", 3), ("benign", 4))
    }
    options = {"mu": mu, "damping": damping, "calibration_holdout": 0.0}
    fisher = {"structure": name, "point": "merged", "estimator": "empirical"}

    def run(**changed: Any) -> Adapter:
        more = {**options, "fisher": {**fisher, **changed}, "compute_dtype": torch.float64, **batches}
        return merge(adapters, "sst", model=model, **more).adapter

    with pytest.raises(OptionError, match=f"unknown Fisher structure '{name}'"):
        run()
    declare()
    spaces = build_spaces(adapters, dtype=torch.float64)
    point = point_cores(adapters, spaces)
    dense = {}
    for kind, seed in (("harm", 3), ("benign", 4)):
        rows = oracle.sample_gradients(model, spaces, oracle.random_samples(5, seed=seed), point)
        dense[kind] = {m: part(g.flatten(1).T @ g.flatten(1) / len(g), spaces[m].shape) for m, g in rows.items()}
    scale = sum(f.trace() for f in dense["benign"].values()) / sum(f.trace() for f in dense["harm"].values())
    merged = run()
    for m in SHAPES:
        eye = torch.eye(len(dense["harm"][m]), dtype=torch.float64)
        f_h, f_b = (f + damping * f.diagonal().mean() * eye for f in (scale * dense["harm"][m], dense["benign"][m]))
        skill, safe = (a.weight * spaces[m].coordinates(a.factors(m, dtype=torch.float64)) for a in adapters)
        moved = torch.linalg.solve(f_h + mu * f_b, f_h @ safe.flatten()).reshape(safe.shape)
        expected = spaces[m].left @ (skill + moved) @ spaces[m].right.T
        assert relative_error(merged.delta(m, dtype=torch.float64), expected) < 1e-8
    assert relative_error(run(structure="kronecker").delta(m, dtype=torch.float64), expected) > 1e-6


def test_two_structures_of_one_name_are_refused() -> None:
    declare_row_blocks()
    taken = registry._FOUND["row_blocks"]

    @dataclass(frozen=True, eq=False, kw_only=True)
    class Other(taken):  # type: ignore[misc,valid-type]
        pass

    with pytest.raises(FisherError, match=r"'row_blocks' is declared by .*RowBlocks and by .*Other"):
        fisher_structure(sums=taken.sums)(Other)
    Other.structure, Other.form = "other", "sparse"
    with pytest.raises(FisherError, match="form 'sparse', expected one of diagonal, kronecker, dense, low-rank"):
        fisher_structure(sums=taken.sums)(Other)
