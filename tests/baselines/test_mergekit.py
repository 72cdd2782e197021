"""mergekit on the full weights of a small Llama: what agrees to rounding, and what is known to differ.

Runs where mergekit is installed (``make test-mergekit``), skips with a message elsewhere.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sst_merge.lora_utils import Adapter
from sst_merge.merging import merge

WEIGHTS = (0.7, 0.4)


def full_merge(folder: Path, base: Path, adapters: list[Path], method: str, **parameters: float) -> dict[str, Tensor]:
    """mergekit's merged model minus the base, by parameter name."""
    config = pytest.importorskip("mergekit.config", reason="mergekit is not installed: make test-mergekit installs it")
    run: Any = pytest.importorskip("mergekit.merge")
    options: Any = pytest.importorskip("mergekit.options")
    models = [
        {"model": f"{base}+{path}", "parameters": {"weight": weight, **parameters}}
        for path, weight in zip(adapters, WEIGHTS, strict=True)
    ]
    plan: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "float32"}
    if method != "linear":
        plan["base_model"] = str(base)
    run.run_merge(
        config.MergeConfiguration.model_validate(plan),
        str(folder / method),
        options.MergeOptions(copy_tokenizer=False, lora_merge_cache=str(folder / "cache"), write_model_card=False),
    )
    from safetensors.torch import load_file

    merged, plain = (load_file(path / "model.safetensors") for path in (folder / method, base))
    return {name: merged[name].double() - plain[name].double() for name in plain}


@pytest.fixture(scope="module")
def inputs(build: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("mergekit")
    model = build.tiny_model("llama")
    model.save_pretrained(folder / "base")
    targets = ["q_proj", "down_proj"]
    adapters = [
        build.adapter_folder(model, folder / "a", seed=1, targets=targets, r=4, lora_alpha=6),
        build.adapter_folder(model, folder / "b", seed=2, targets=targets, r=2, lora_alpha=3),
    ]
    return folder, folder / "base", adapters


def ours(paths: list[Path], method: str, **options: Any) -> dict[str, Tensor]:
    adapters = [Adapter.load(path, weight=weight) for path, weight in zip(paths, WEIGHTS, strict=True)]
    merged = merge(adapters, method, compute_dtype=torch.float64, **options).adapter
    return {f"{module}.weight": merged.delta(module, dtype=torch.float64) for module in merged.modules}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative difference of a ΔW; what no adapter touches changes at most by the rounding of an average."""
    assert all(float(expected[name].abs().max()) <= 1e-6 for name in expected.keys() - found.keys())
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in found)


@pytest.mark.parametrize(
    ("theirs", "parameters", "method", "options"),
    [
        ("task_arithmetic", {}, "task_arithmetic", {}),
        ("ties", {"density": 0.4}, "ties", {"density": 0.4, "normalize": "weights"}),
        ("linear", {}, "linear", {}),
    ],
    ids=["task_arithmetic", "ties", "linear"],
)
def test_mergekit_on_full_weights_agrees(
    inputs: tuple[Path, Path, list[Path]],
    theirs: str,
    parameters: dict[str, float],
    method: str,
    options: dict[str, Any],
) -> None:
    folder, base, adapters = inputs
    expected = full_merge(folder, base, adapters, theirs, **parameters)
    # Both differences are taken from weights of size 1 in float32, and updates are a hundredth of that and more.
    assert difference(ours(adapters, method, **options), expected) <= 1e-5


def test_mergekit_divides_ties_by_weights_where_the_paper_counts(inputs: tuple[Path, Path, list[Path]]) -> None:
    folder, base, adapters = inputs
    expected = full_merge(folder / "again", base, adapters, "ties", density=0.4)
    assert difference(ours(adapters, "ties", density=0.4), expected) > 0.1
