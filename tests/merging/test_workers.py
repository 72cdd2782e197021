"""Several processes write the bytes that one does, say what was wrong, and leave nothing behind."""

import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.errors import MergeError
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import MergeSettings, merge, merge_to_folder, number_of_workers, plan_merge
from sst_merge.merging.workers import require_module_memory

SHAPES = {"layers.2.q": (12, 9), "layers.10.q": (12, 9), "layers.2.up": (7, 15), "norm": (5, 5)}
FILES = ("adapter_model.safetensors", "adapter_config.json", "merge_report.json")


@pytest.fixture(scope="module")
def adapters(build: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """In files, of several ranks, with a bias; one leaves a module out."""
    place = tmp_path_factory.mktemp("adapters")
    found = []
    for seed, name in enumerate(("code", "maths", "safety")):
        made = build.random_adapter(dict(list(SHAPES.items())[seed % 2 :]), name=name, rank=2 + seed, seed=seed)
        factors = {module: made.factors(module) for module in made.modules}
        factors["layers.10.q"] = build.random_factors(12, 9, 2, seed=seed, bias=True)
        Adapter.from_factors(factors, name=name).save(place / name)
        found.append(Adapter.load(place / name, role="safety" if seed == 2 else "utility", weight=0.5 + seed))
    return found


def many(build: Any) -> list[Adapter]:
    """Modules enough that some are not merged yet when the first one is written."""
    return [build.random_adapter({f"layers.{i}": (6, 5) for i in range(12)}, name=name, rank=1) for name in "ab"]


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "della"])
def test_any_number_of_processes_writes_the_same_bytes(method: str, adapters: list[Adapter], tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2, 3) if method == "task_arithmetic" else (1, 2):
        merge_to_folder(plan_merge(adapters, method), tmp_path / str(workers), workers=workers)
        found[workers] = [(tmp_path / str(workers) / name).read_bytes() for name in FILES]
    assert all(files == found[1] for files in found.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, found))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("odd", [(), ("layers.1",), ("layers.0", "layers.2")])
def test_tensors_go_to_places_known_before_or_come_from_the_workers(
    dtype: torch.dtype | None, odd: tuple[str, ...], build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules whose rank is smaller than was expected, as an update and twice it need no more columns than one."""
    shapes = {f"layers.{i}": (12, 9) for i in range(4)}
    one = build.random_adapter(shapes, name="one", rank=2, seed=1)
    other = build.random_adapter(shapes, name="other", rank=2, seed=2)
    factors = {module: (one if module in odd else other).factors(module) for module in shapes}
    plan = plan_merge([one, Adapter.from_factors(factors, name="other")])
    # Written from memory, where nothing is expected of the file.
    merge([one, Adapter.from_factors(factors, name="other")]).save(tmp_path / "memory", dtype=dtype)
    sent = []
    monkeypatch.setattr(torch, "from_numpy", lambda array: sent.append(array.shape) or torch.as_tensor(array))
    for workers in (1, 2):
        merge_to_folder(plan, tmp_path / str(workers), workers=workers, dtype=dtype)
        found = [(folder / FILES[0]).read_bytes() for folder in (tmp_path / "memory", tmp_path / str(workers))]
        assert found[0] == found[1]
        assert sorted(path.name for path in (tmp_path / str(workers)).iterdir()) == sorted(FILES)
    assert sent == [shape for _ in odd for shape in ((12, 2), (2, 9))]


def test_a_refused_module_is_named_as_in_one_process(build: Any, tmp_path: Path) -> None:
    small, wild = many(build)
    factors = {module: wild.factors(module) for module in wild.modules}
    factors["layers.7"] = LoraFactors(factors["layers.7"].b * 1e20, factors["layers.7"].a)
    plan = plan_merge([small, Adapter.from_factors(factors, name="wild")])
    said = []
    for workers in (1, 2):
        with pytest.raises(MergeError, match=r"module 'layers\.7': the update of adapter 'wild'") as refused:
            merge_to_folder(plan, tmp_path / "out", workers=workers)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert not list(tmp_path.iterdir())


def test_a_killed_process_ends_the_merge_and_leaves_nothing(build: Any, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        if stage == "merge" and done == 1:
            os.kill(multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL)
            # Its end is seen when the other process is ended, too; until then that one could merge all that is left.
            deadline = time.monotonic() + 60
            while multiprocessing.active_children() and time.monotonic() < deadline:
                time.sleep(0.01)

    with pytest.raises(MergeError, match=r"ended before module 'layers\.\d+' was merged.*--workers 1"):
        merge_to_folder(plan_merge(many(build)), tmp_path / "out", workers=2, progress=kill)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("at", "error", "message"),
    [
        ("ProcessPoolExecutor.submit", OSError("no room"), "2 worker processes cannot be started here (no room)"),
        ("_packed", TypeError("cannot pickle it"), "by 'task_arithmetic' cannot be sent to worker processes (cannot"),
    ],
)
def test_processes_that_cannot_be_started_are_refused(
    at: str, error: Exception, message: str, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"sst_merge.merging.workers.{at}", refuse)
    with pytest.raises(MergeError, match=re.escape(message) + r".*--workers 1") as refused:
        merge_to_folder(plan_merge(many(build)), tmp_path / "out", workers=2)
    assert refused.value.__cause__ is error
    assert not list(tmp_path.iterdir())


def test_auto_starts_none_for_a_small_merge(
    build: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sst_merge.merging.workers.usable_cores", lambda: 64)
    monkeypatch.setattr("sst_merge.merging.workers.free_memory", lambda: 64 << 30)
    assert number_of_workers(plan_merge(adapters), "auto") == 1
    # Expanded zeros take no memory: 20 adapters of rank 16 on 3 layers of Llama-2-7B, from the headers' point of view.
    shapes = {f"layers.{i}": (4096, 11008) for i in range(60)}
    wide = {m: LoraFactors(torch.zeros(1).expand(o, 16), torch.zeros(1).expand(16, i)) for m, (o, i) in shapes.items()}
    plan = plan_merge([Adapter.from_factors(wide, name=str(i)) for i in range(20)], "model_stock")
    assert number_of_workers(plan, "auto") == 8
    monkeypatch.setattr("sst_merge.merging.workers.free_memory", lambda: 2 << 30)
    assert number_of_workers(plan, "auto") == 2
    assert number_of_workers(plan, 100) == 60
    assert number_of_workers(plan_merge(plan.adapters, settings=MergeSettings(device="cuda")), 4) == 1
    with pytest.raises(MergeError, match=r"2\.0 GiB are there for 8 processes; one process needs .* \(--workers 1\)"):
        require_module_memory(plan, 8, 2 << 30)
    with pytest.raises(MergeError, match=r"ties forms ΔW, other methods do not \(such as --method task_arithmetic\)"):
        require_module_memory(plan_merge(plan.adapters, "ties"), 1, 2 << 30)
    with pytest.raises(MergeError, match=r"workers = 0 .* at least 1, or auto"):
        number_of_workers(plan, 0)


def test_the_command_says_why_it_takes_fewer(adapters: list[Adapter], tmp_path: Path) -> None:
    paths = [f"--{'safety' if adapter.role == 'safety' else 'skill'}={adapter.path}" for adapter in adapters]
    words = ["merge", *paths, "--method", "safe_merge", "--workers", "3", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "workers  1, not 3: method safe_merge looks at the whole merge before it merges modules" in done.stderr
    refused = CliRunner().invoke(cli, [*words, "--workers", "0"])
    assert refused.exit_code == 2
    assert "--workers" in refused.stderr
