"""Two and four real processes give the numbers of one; a killed one ends all, and its part of the work is not lost.

Processes are forked from the test, so that none imports torch again, and find each other as under a launcher.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge import processes
from sst_merge.cli.main import cli
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import FisherError
from sst_merge.fim_calculator import (
    CoreModel,
    build_spaces,
    compute_fim,
    divergences,
    estimate,
    gathering,
    kept_parts,
    together,
)
from sst_merge.lora_utils import Adapter
from sst_merge.merging import merge
from sst_merge.methods.parts.input_moments import input_moments
from sst_merge.sst import teacher_refine
from sst_merge.sst.likelihood import score_candidates

SHAPES = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}
STRUCTURES = ("diagonal", "kronecker", "block", "lowrank")


def launched(number: int, work: Callable[[], Any], folder: Path) -> list[tuple[int, Any]]:
    """Start processes as a launcher does; exit status (or −signal) of each and what its work returned or raised."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder.mkdir(exist_ok=True)
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _work(work, folder / f"{rank}.pt", folder / f"{rank}.txt")
        children.append(child)
    states = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    files = [folder / f"{rank}.pt" for rank in range(number)]
    return [
        (state, torch.load(file, weights_only=False) if file.exists() else None)
        for state, file in zip(states, files, strict=True)
    ]


def _work(work: Callable[[], Any], result: Path, said: Path) -> None:
    status = 70
    try:
        # Threads of the parent are not in its child, and whoever waits for them waits for ever.
        torch.set_num_threads(1)
        sys.stdout = sys.stderr = said.open("w")
        torch.save(work(), result)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except Exception as error:
        torch.save(f"{type(error).__name__}: {error}", result)
    finally:
        sys.stdout.flush()
        os._exit(status)


def shared(work: Callable[[], Any]) -> Callable[[], Any]:
    """Work that the processes share."""

    def run() -> Any:
        with processes.joined():
            return work()

    return run


def texts(seed: int, sizes: Sequence[int]) -> list[Batch]:
    """Batches of these numbers of rows, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for place, size in enumerate(sizes):
        ids = torch.randint(0, 37, (size, 6 + place % 3), generator=generator)
        found.append(Batch(ids, torch.ones_like(ids), ids.where(torch.arange(ids.shape[1]) > 2, -100)))
    return found


HARM, BENIGN = texts(1, (3, 4, 1)), texts(2, (4, 3, 4))


@pytest.fixture(scope="module")
def adapters(build: Any) -> list[Adapter]:
    return [
        build.random_adapter(SHAPES, name="skill", rank=2, seed=1, weight=0.1),
        build.random_adapter(SHAPES, name="safe", rank=1, seed=3, role="safety", weight=0.1),
    ]


@pytest.fixture
def figures(build: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Everything that is split, by name."""
    monkeypatch.setattr(teacher_refine, "PASSES", 2)
    model = build.tiny_model("llama", dtype=torch.float64)
    spaces = build_spaces(adapters, dtype=torch.float64)
    cores = {m: space.coordinates(adapters[0].factors(m)) for m, space in spaces.items()}

    def merged(**options: Any) -> dict[str, torch.Tensor]:
        found = merge(adapters, "sst", model=model, harm=HARM, benign=BENIGN, compute_dtype=torch.float64, **options)
        return {m: found.adapter.delta(m) for m in found.adapter.modules}

    def measured() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for structure in STRUCTURES:
            fisher = compute_fim(model, spaces, HARM, structure=structure)
            found[structure] = {m: layer.dense() for m, layer in fisher.layers.items()}
            found[f"{structure}, samples"] = fisher.samples
        rows = compute_fim(model, spaces, HARM, structure="lowrank").layers
        found["rows in the order of the samples"] = {m: rows[m].tensors()["rows"] for m in rows}
        drawn = torch.Generator().manual_seed(5)
        fisher = compute_fim(model, spaces, HARM, structure="diagonal", estimator="sampled", generator=drawn)
        found["drawn labels"] = {m: layer.dense() for m, layer in fisher.layers.items()}
        for structure in STRUCTURES:  # one process has nothing to do
            fisher = compute_fim(model, spaces, HARM[:1], structure=structure)
            found[f"{structure} of one batch"] = {m: layer.dense() for m, layer in fisher.layers.items()}
        found["inputs"] = input_moments(model, spaces, HARM[:1], list(spaces))
        with CoreModel(model, spaces) as attached:
            found["divergence"] = torch.tensor(divergences(attached, [cores, {}], {}, BENIGN))
            found["scores"] = torch.tensor(score_candidates(attached, [cores], {}, HARM, BENIGN))
        plain = {"mu": 1.0, "fisher": {"point": "merged"}}
        found["merge"] = merged(tax_budget=0.05)
        found["merge, refined"] = merged(refine=2, **plain)
        found["merge, teachers"] = merged(refine="teachers", **plain)
        found["merge of own data"] = merged(utility="fisher", adapter_benign={"skill": HARM}, **plain)
        return found

    return measured


def flat(value: Any) -> torch.Tensor:
    """All numbers of a figure."""
    if isinstance(value, Mapping):
        return torch.cat([flat(part) for _, part in sorted(value.items())])
    return torch.as_tensor(value, dtype=torch.float64).flatten()


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.slow(4)
def test_several_processes_find_what_one_does(figures: Any, number: int, tmp_path: Path) -> None:
    expected = figures()
    found = launched(number, shared(figures), tmp_path)
    assert [state for state, _ in found] == [0] * number, [values for _, values in found]
    for _, values in found:
        assert values.keys() == expected.keys()
        for name, value in values.items():
            assert torch.equal(flat(value), flat(found[0][1][name])), f"{name}: processes differ"
            scale = float(flat(expected[name]).abs().max())
            assert float((flat(value) - flat(expected[name])).abs().max()) <= 1e-6 * scale, name


def test_one_process_is_alone_and_imports_nothing() -> None:
    assert (processes.count(), processes.is_first(), processes.name()) == (1, True, "")
    with processes.joined():
        assert processes.count() == 1 and processes.mine(7) and processes.shard([1, 2]) == [1, 2]
        assert processes.once("x", lambda: 3) == 3 and processes.from_all("x", 4) == [4]
        assert processes.sums("x", [0.1]) == [0.1]
    words = "import sys, sst_merge.processes; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, check=True).stdout == b"False\n"


def test_an_error_of_one_is_raised_in_all_and_different_work_is_found_out(tmp_path: Path) -> None:
    def one_fails() -> None:
        if processes.name() == "2of3":
            raise FisherError("module x: gradients hold NaN")
        processes.sums("something", [1.0])

    found = launched(3, shared(one_fails), tmp_path)
    told = "ProcessError: process 2 of 3: module x: gradients hold NaN"
    assert [said for _, said in found] == [told, "FisherError: module x: gradients hold NaN", told]

    def different() -> None:
        processes.sums(f"part {processes.name()}", [1.0])

    for _, said in launched(2, shared(different), tmp_path):
        assert said.startswith("ProcessError: the 2 processes of this run do different work (process 1: part 1of2; ")


def test_values_and_sums_of_all_arrive_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BUCKET", 4)

    def work() -> Any:
        rank = int(os.environ["RANK"])
        tensors = [torch.full((3,), rank + 0.5), torch.ones(2, 2, dtype=torch.float64), torch.tensor([rank])]
        processes.add_up("tensors", tensors)
        made = processes.once("made", lambda: (os.getpid(), processes.count()))
        return tensors, made, processes.from_all("ranks", rank), processes.shard("abcde"), processes.is_first()

    found = launched(2, shared(work), tmp_path)
    assert [state for state, _ in found] == [0, 0]
    for rank, (_, (tensors, made, ranks, letters, first)) in enumerate(found):
        assert [tensor.tolist() for tensor in tensors] == [[2.0] * 3, [[2.0, 2.0], [2.0, 2.0]], [1]]
        assert made == found[0][1][1] and made[1] == 1  # who makes something works alone
        assert (ranks, "".join(letters), first) == ([0, 1], "ace" if rank == 0 else "bd", rank == 0)


@pytest.mark.parametrize("structure", ["kronecker", "lowrank"])
def test_a_killed_process_ends_all_and_its_part_is_not_collected_again(
    structure: str, build: Any, adapters: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_PIECE", 1)
    monkeypatch.setattr(kept_parts, "_EVERY", 0.0)
    model, spaces = build.tiny_model("llama", dtype=torch.float64), build_spaces(adapters, dtype=torch.float64)
    batches = texts(1, (2, 1, 2, 1, 2))
    taken: list[int] = []

    def collect(keep: Path, kill_at: int | None = None) -> Callable[[], Any]:
        class Counting(gathering.Gathering):
            def take(self, batch: Batch, index: int) -> None:
                if index == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                taken.append(index)
                super().take(batch, index)

        def work() -> Any:
            monkeypatch.setattr(estimate, "Gathering", Counting)
            draws = torch.Generator().manual_seed(3)
            found = compute_fim(
                model, spaces, batches, structure=structure, estimator="sampled", generator=draws, keep=keep
            )
            return taken, {m: layer.tensors() for m, layer in found.layers.items()}

        return shared(work)

    (killed, _), (survivor, said) = reversed(launched(2, collect(tmp_path / "parts", kill_at=3), tmp_path / "1"))
    assert (killed, survivor) == (-signal.SIGKILL, 70)
    assert said.startswith("ProcessError: another process of this run ended while this one waited for it (")
    assert "start the same command again" in said
    again = launched(2, collect(tmp_path / "parts"), tmp_path / "2")
    whole = launched(2, collect(tmp_path / "other"), tmp_path / "3")
    assert [found[0] for _, found in again] == [[], [3]]
    assert [found[0] for _, found in whole] == [[0, 2, 4], [1, 3]]
    for (_, (_, one)), (_, (_, other)) in zip(again, whole, strict=True):
        assert all(torch.equal(one[m][name], other[m][name]) for m in one for name in one[m])
