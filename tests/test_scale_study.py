"""The study of scale: its laws against naive counts, and its script for a card on a tiny model without one."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def test_exponents_are_those_of_a_line_of_logarithms(script: Callable[[str], ModuleType]) -> None:
    laws = script("studies/scale/scale_laws.py")
    assert laws.slope([1, 2, 4, 8], [3 * x**2.5 for x in (1, 2, 4, 8)]) == pytest.approx(2.5)
    # numpy's own least squares.
    y = torch.tensor([1.0, 5.0, 7.0, 30.0]).double()
    x = torch.tensor([2.0, 3.0, 9.0, 11.0]).double().log()
    line = torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], 1), y.log()[:, None]).solution
    assert laws.slope([2, 3, 9, 11], y.tolist()) == pytest.approx(float(line[0]))


def test_walls_on_paper_are_sizes_of_what_is_made(script: Callable[[str], ModuleType]) -> None:
    from sst_merge.fim_calculator import build_spaces

    script("studies/scale/scale_laws.py")
    models = script("studies/scale/scale_models.py")
    paper = script("studies/scale/scale_paper.py")
    shape = models.Shape("", 32, 48, 2, 4, 2, 64)
    adapters = [models.random_adapter(shape.modules, 4, seed=seed) for seed in range(3)]
    stored = [factors for one in adapters for factors in (one.factors(name) for name in one.modules)]
    walls = paper.walls(shape, 3, 4)
    assert walls["adapters to read"] == 2 * sum(f.a.numel() + f.b.numel() for f in stored)
    spaces = build_spaces(adapters)
    # In 32 and in 16 bits; V is twice as wide with inputs: wide.
    numbers = sum(s.left.numel() + 2 * s.right.numel() for s in spaces.values())
    assert walls["sst, bases U and V"] == 6 * numbers
    assert walls["base in bfloat16"] == 2 * sum(
        p.numel() for name, p in models.random_model(shape).named_parameters() if "norm" not in name
    )
    n = paper.adapters_within(paper.sum_memory, paper.LLAMA_7B, 16, 24e9)
    assert paper.sum_memory(paper.LLAMA_7B, n, 16) <= 24e9 < paper.sum_memory(paper.LLAMA_7B, n + 1, 16)


def test_the_script_for_a_card_runs_without_one(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    gpu = script("studies/scale/gpu.py")
    small = ["--samples", "2", "--tokens", "16", "--batch", "2", "--rank", "2", "--adapters", "2", "--rounds", "1"]
    tiny = ["--sizes", "tiny", "--device", "cpu", *small]
    gpu.main(["--out", str(tmp_path / "all"), *tiny])
    found = json.loads((tmp_path / "all/figures.json").read_text(encoding="utf-8"))
    (model,) = found["models"]
    expected = {"plain pass", "plain forward", "Fisher", "scoring", "plain generation", "writing", "merge"}
    assert set(model["stages"]) == expected and "refining coefficients" in model["merge_stages"]
    assert all(
        {"cpu", "streams"} <= row.keys() and ("peft" in row) == (row["kind"] is not None)
        for row in found["without_data"]["rows"]
    )
    assert found["left_out"] == ["4-bit weights: they need a card"]
    page = (tmp_path / "all/README.md").read_text(encoding="utf-8")
    assert page.startswith("# On one card\n\nno card, the CPU") and "| tiny, bfloat16 | Fisher |" in page
    gpu.main(["--out", str(tmp_path / "none"), *tiny, "--minutes", "0"])
    left = json.loads((tmp_path / "none/figures.json").read_text(encoding="utf-8"))
    assert left["models"] == [] and len(left["left_out"]) == 3
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main(["--out", str(tmp_path), "--sizes", "tiny"])


def test_a_fisher_counts_as_many_multiplications_as_are_carried_out(script: Callable[[str], ModuleType]) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from sst_merge.fim_calculator import build_spaces, compute_fim, point_cores

    class Products(TorchDispatchMode):
        """Multiply-adds of all matrix products but those of attention itself, which have four axes."""

        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket._qualified_op_name in {"aten::mm", "aten::addmm", "aten::bmm"}:
                left, right = args[-2:]
                self.found += left.numel() * right.shape[-1]
            return result

    models = script("studies/scale/scale_models.py")
    vocabulary = script("studies/scale/vocabulary.py")
    shape = models.Shape("", 64, 96, 4, 4, 2, 4096)  # from that many tokens on logits are those of answers alone
    model = models.random_model(shape)
    adapters = [models.random_adapter(shape.modules, 2, seed=seed) for seed in range(3)]
    spaces = build_spaces(adapters)
    point = point_cores(adapters, spaces)
    batches = models.random_batches(shape.vocabulary, samples=2, tokens=64, batch=2)
    with Products() as plain:
        models.plain(model, batches)
    with Products() as fisher:
        compute_fim(model, spaces, batches, point=point, structure="kronecker", estimator="empirical")
    assert vocabulary.counted(shape, 6, 0.25) == pytest.approx(fisher.found / plain.found, rel=0.03)


def test_the_steps_of_filters_are_counted(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """Two experts of the lab: every module's system, in both bases."""
    steps = script("studies/scale/steps.py")
    steps.main(["--out", str(tmp_path), "--sets", "2", "--samples", "4", "--rounds", "1"])
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["2"]
    for counts in found["products"].values():
        assert len(counts["mean"]) == len(counts["both"]) == 28
        assert 0 < sum(counts["both"]) < sum(counts["mean"])
    assert len(found["time of lessons together over apart"]) == 1
