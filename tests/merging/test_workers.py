"""Several threads write the bytes that one does, say what was wrong, and leave nothing behind."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.core_space import StackedSpace
from sst_merge.errors import MergeError
from sst_merge.lora_utils import Adapter, ExpectedFile, LoraFactors
from sst_merge.lora_utils.sources import FileSource
from sst_merge.lora_utils.tensor_file import TensorFile
from sst_merge.merging import MergeSettings, merge, merge_to_folder, number_of_workers, plan_merge
from sst_merge.merging.engine import MergedModule, merged_module
from sst_merge.merging.module_plan import ModulePlan
from sst_merge.merging.plan import MergePlan
from sst_merge.merging.workers import require_module_memory, workers_and_why

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
def test_any_number_of_threads_writes_the_same_bytes(method: str, adapters: list[Adapter], tmp_path: Path) -> None:
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
    took: dict[str, bool] = {}
    write = ExpectedFile.write

    def writing(expected: ExpectedFile, module: str, factors: LoraFactors) -> bool:
        return took.setdefault(module, write(expected, module, factors))

    monkeypatch.setattr(ExpectedFile, "write", writing)
    for workers in (1, 2):
        merge_to_folder(plan, tmp_path / str(workers), workers=workers, dtype=dtype)
        found = [(folder / FILES[0]).read_bytes() for folder in (tmp_path / "memory", tmp_path / str(workers))]
        assert found[0] == found[1]
        assert sorted(path.name for path in (tmp_path / str(workers)).iterdir()) == sorted(FILES)
    assert took == {module: module not in odd for module in shapes}


def test_a_refused_module_is_named_as_in_one_thread(build: Any, tmp_path: Path) -> None:
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


def test_an_interrupted_merge_leaves_nothing_and_no_thread(build: Any, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "merge" and done == 1:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        merge_to_folder(plan_merge(many(build)), tmp_path / "out", workers=2, progress=interrupt)
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_every_module_is_read_merged_and_written_on_one_thread_of_torch(
    workers: int, adapters: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one waits for a core at every small step where another program has it: many times slower."""
    found: dict[str, set[int]] = {}

    def spied(of: type, name: str) -> None:
        real = getattr(of, name)

        def spy(*given: Any, **named: Any) -> Any:
            found.setdefault(name, set()).add(torch.get_num_threads())
            return real(*given, **named)

        monkeypatch.setattr(of, name, spy)

    spied(FileSource, "check")
    spied(FileSource, "read")
    spied(StackedSpace, "lift")
    spied(TensorFile, "write")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        merge_to_folder(plan_merge(adapters, "tsv_m"), tmp_path / "out", workers=workers)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == {"check": {1}, "read": {1}, "lift": {1}, "write": {1}}


def test_on_a_card_every_thread_has_a_stream_of_its_own(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No card is here, so the CPU computes; each module is merged inside a new stream of the card that was named."""
    plan = plan_merge(many(build))
    merge_to_folder(plan, tmp_path / "cpu", workers=2)
    inside, made, waited = threading.local(), [], []

    class Entered:
        def __init__(self, stream: object) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            inside.stream = self.stream

        def __exit__(self, *_: object) -> None:
            inside.stream = None

    def on_the_cpu(plan: MergePlan, module: ModulePlan) -> MergedModule:
        made.append((inside.stream, threading.get_ident()))
        return merged_module(replace(plan, settings=MergeSettings()), module)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: (device, object()))
    monkeypatch.setattr(torch.cuda, "stream", Entered)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: made or waited.append(torch.device(device)))
    monkeypatch.setattr("sst_merge.merging.workers.merged_module", on_the_cpu)
    card = replace(plan, settings=MergeSettings(device="cuda:1"))
    merge_to_folder(card, tmp_path / "card", workers=2)
    assert (tmp_path / "card" / FILES[0]).read_bytes() == (tmp_path / "cpu" / FILES[0]).read_bytes()
    assert waited == [torch.device("cuda:1")]  # before the first module
    assert {stream[0] for stream, _ in made} == {torch.device("cuda:1")}
    assert len({id(stream[1]) for stream, _ in made}) == len(made) == 12


def test_auto_takes_what_cores_threads_modules_and_memory_allow(
    build: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sst_merge.merging.workers.usable_cores", lambda: 64)
    monkeypatch.setattr("sst_merge.merging.workers.free_memory", lambda: 64 << 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert number_of_workers(plan_merge(adapters), "auto") == len(SHAPES)
    # Expanded zeros take no memory: 20 adapters of rank 16 on 3 layers of Llama-2-7B, from the headers' point of view.
    shapes = {f"layers.{i}": (4096, 11008) for i in range(60)}
    wide = {m: LoraFactors(torch.zeros(1).expand(o, 16), torch.zeros(1).expand(16, i)) for m, (o, i) in shapes.items()}
    plan = plan_merge([Adapter.from_factors(wide, name=str(i)) for i in range(20)], "model_stock")
    assert number_of_workers(plan, "auto") == 8
    with monkeypatch.context() as fewer:
        fewer.setattr(torch, "get_num_threads", lambda: 3)
        assert number_of_workers(plan, "auto") == 3
        fewer.setattr("sst_merge.merging.workers.usable_cores", lambda: 2)
        assert number_of_workers(plan, "auto") == 2
    # A module needs 8 (4 · 320 · 15104 + 22 · 320²) bytes, 165 MiB, and the process 300 MiB.
    assert workers_and_why(plan, "auto", available=2 << 30) == (4, None)
    monkeypatch.setattr("sst_merge.merging.workers.free_memory", lambda: 2 << 30)
    assert number_of_workers(plan, "auto") == 4
    assert number_of_workers(plan, 100) == 60
    on_a_card = plan_merge(plan.adapters, settings=MergeSettings(device="cuda"))
    assert [number_of_workers(on_a_card, asked) for asked in ("auto", 4)] == [1, 4]
    with pytest.raises(MergeError, match=r"1\.5 GiB are there for 8 threads; one thread needs .* \(--workers 1\)"):
        require_module_memory(plan, 8, 3 << 29)
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
