"""Two and four real processes give the numbers of one; a killed one ends all, and its part of the work is not lost.

Processes are forked from the test, so that none imports torch again, and find each other as under a launcher.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.conftest import launched
from tests.training.conftest import rows, write_base

from sst_merge import processes
from sst_merge.cli.main import cli
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import FisherError, ProcessError
from sst_merge.fim_calculator import (
    CoreModel,
    Fisher,
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
from sst_merge.methods import MergeProblem
from sst_merge.methods.parts.input_moments import input_moments
from sst_merge.sst import SSTMerge, SSTOptions, safety_target, teacher_refine
from sst_merge.sst.likelihood import score_candidates

SHAPES = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}
STRUCTURES = ("diagonal", "kronecker", "block", "lowrank")


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
def figures(build: Any, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Everything that is split, by name."""
    monkeypatch.setattr(teacher_refine, "PASSES", 2)
    model = build.tiny_model("llama", dtype=torch.float64)
    spaces = build_spaces(adapters, dtype=torch.float64)
    cores = {m: space.coordinates(adapters[0].factors(m)) for m, space in spaces.items()}

    def refuses(_: Any, asked: Sequence[Batch]) -> list[bool]:
        return [bool(ids[0] % 2) for batch in asked for ids in batch.input_ids]

    problem = MergeProblem(adapters, spaces, model, HARM, BENIGN, refuses=refuses)

    def merged(**options: Any) -> dict[str, torch.Tensor]:
        found = merge(adapters, "sst", model=model, harm=HARM, benign=BENIGN, compute_dtype=torch.float64, **options)
        return {m: found.adapter.delta(m) for m in found.adapter.modules}

    def measured(*, all_merges: bool) -> dict[str, Any]:
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
            refusals = safety_target._refusals(SSTMerge(problem, SSTOptions(mu=1.0, inputs="core")), attached, {}, HARM)
            found["refusals"] = torch.tensor(refusals)
        plain = {"mu": 1.0, "fisher": {"point": "merged"}}
        found["merge"] = merged(tax_budget=0.05)
        if not all_merges:
            return found
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


@pytest.mark.parametrize(("number", "all_merges"), [(2, True), (4, False)])
def test_several_processes_find_what_one_does(figures: Any, number: int, all_merges: bool, tmp_path: Path) -> None:
    expected = figures(all_merges=all_merges)
    found = launched(number, shared(lambda: figures(all_merges=all_merges)), tmp_path)
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
        assert said.startswith("ProcessError: the 2 processes of this run do different work (process 1: part 1of2, 1 n")


def test_what_cuts_a_model_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = merging(place, "merge", "--method", "sst", "--set", "mu=1", "--device-map", "auto")
    found = launched(2, command(*words, "--output", tmp_path / "out"), tmp_path / "said")
    assert [state for state, _ in found] == [2, 2]
    assert "device_map: 'auto' spreads a model over all devices" in (tmp_path / "said" / "0.txt").read_text()
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="ACCELERATE_USE_FSDP"), processes.joined():
        pass


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


def test_a_killed_process_ends_all_and_its_part_is_not_collected_again(
    build: Any, adapters: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            found = compute_fim(model, spaces, batches, estimator="sampled", generator=draws, keep=keep)
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


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a tokenizer, two adapters, prompts with answers, questions."""
    root = tmp_path_factory.mktemp("place")
    write_base(root / "base")
    for seed, name in enumerate(("skill", "safe")):
        targets = build.ARCHITECTURES["llama"].linears
        build.adapter_folder(
            build.tiny_model("llama"), root / name, seed=seed, targets=targets, r=2, lora_alpha=1, task_type="CAUSAL_LM"
        )
    for seed, name in enumerate(("harm", "benign")):
        lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows(9, seed=seed)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    asked = [json.dumps({"prompt": row.prompt, "answer": row.response}) for row in rows(5)]
    (root / "questions.jsonl").write_text("\n".join(asked))
    return root


def command(*words: object) -> Callable[[], None]:
    return lambda: cli([str(word) for word in words], prog_name="sst-merge")


def merging(place: Path, *words: object) -> list[object]:
    """Words of a merge, or of a Fisher's collection."""
    data = ("--data-harm-path", place / "harm.jsonl", "--data-benign-path", place / "benign.jsonl")
    adapters = ("--adapter", f"name=skill,path={place / 'skill'},role=utility")
    adapters = (*adapters, "--adapter", f"name=safe,path={place / 'safe'},role=safety")
    return [*words, "--base", place / "base", *adapters, *data, "--data-batch-size", 2, "--device", "cpu"]


def same_numbers(one: Path, other: Path, *, within: float = 1e-6) -> None:
    others = load_file(other)
    for name, found in load_file(one).items():
        assert float((found - others[name]).abs().max()) <= within * float(found.abs().max()), name


def run(folder: Path, *words: object) -> str:
    """Run a command in two processes; what the first one said, and the second one says nothing."""
    found = launched(2, command(*words), folder)
    said, silence = ((folder / f"{rank}.txt").read_text() for rank in range(2))
    assert [state for state, _ in found] == [0, 0], said
    assert silence == ""
    return said


def alone(*words: object) -> None:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output


WEIGHTS = "adapter_model.safetensors"


def test_a_merge_and_a_fisher_are_those_of_one_process(place: Path, tmp_path: Path) -> None:
    said, out = tmp_path / "said", {name: tmp_path / name for name in ("one", "two", "again")}
    words = merging(place, "merge", "--method", "sst", "--set", "mu=1", "--set", "fisher.point=merged")
    alone(*words, "--output", out["one"])
    # What three processes left that were killed.
    (tmp_path / ".two.parts").mkdir()
    (tmp_path / ".two.parts" / "0a1b-3of3.safetensors").write_bytes(b"")
    assert "merged 2 adapters by sst" in run(said, *words, "--output", out["two"])
    run(said, *words, "--output", out["again"])
    same_numbers(out["one"] / WEIGHTS, out["two"] / WEIGHTS)
    assert (out["two"] / WEIGHTS).read_bytes() == (out["again"] / WEIGHTS).read_bytes()
    assert not list(tmp_path.glob(".*"))  # the parts are gone

    words = merging(place, "fisher", "collect", "--kind", "harm", "--point", "merged")
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    alone(*words, "--out", files[0])
    run(said, *words, "--out", files[1])
    one, two = map(Fisher.load, files)
    for name in ("samples", "fingerprint", "origin", "settings"):
        assert getattr(one, name) == getattr(two, name)
    same_numbers(*files)


def test_an_evaluation_is_that_of_one_process_and_takes_over_answers(place: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--base", place / "base", "--adapter", f"skill={place / 'skill'}", "--batch-size", 2]
    words += ["--suite", place / "questions.jsonl", "--device", "cpu", "--max-new-tokens", 4]
    alone(*words, "--out", tmp_path / "one")
    (answers,) = (tmp_path / "one" / "answers").glob("base-*")
    lines = answers.read_text().splitlines(keepends=True)
    # What two processes had when they were killed.
    left = tmp_path / "two" / "answers"
    left.mkdir(parents=True)
    (left / answers.name).write_text("".join(lines[:2]))
    (left / f"{answers.stem}.2of2.jsonl").write_text(lines[0] + lines[2])
    run(tmp_path / "said", *words, "--out", tmp_path / "two")
    records = list((tmp_path / "one" / "records").rglob("*.jsonl"))
    assert len(records) == 2
    for file in records:
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()
    names = {file.name for file in (tmp_path / "one" / "answers").iterdir()}
    assert {file.name for file in left.iterdir()} == names
    assert (left / answers.name).read_text().startswith("".join(lines[:3]))


def test_a_training_is_that_of_one_process(place: Path, tmp_path: Path) -> None:
    words = ["train", "--base", place / "base", "--data", place / "benign.jsonl", "--role", "utility", "--rank", 2]
    words += ["--batch-size", 4, "--epochs", 1, "--device", "cpu", "--dtype", "float32"]
    alone(*words, "--output", tmp_path / "one")
    run(tmp_path / "said", *words, "--output", tmp_path / "two")
    # Adam divides by the size of a gradient, also where that is rounding.
    same_numbers(tmp_path / "one" / WEIGHTS, tmp_path / "two" / WEIGHTS, within=1e-5)
    reports = [json.loads((tmp_path / name / "training_report.json").read_text()) for name in ("one", "two")]
    assert reports[1]["losses"] == pytest.approx(reports[0]["losses"], rel=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_commands_whose_work_is_not_shared_are_refused_once(place: Path, tmp_path: Path) -> None:
    found = launched(2, command("inspect", place / "skill", place / "safe"), tmp_path)
    assert [state for state, _ in found] == [2, 2]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "sst-merge inspect runs in one process, and a launcher started 2 (WORLD_SIZE)" in said[0]
    assert said[1] == ""
    # An error that all of them find is said once, too.
    words = merging(place, "merge", "--method", "sst", "--set", "mu=1", "--output", tmp_path / "out")
    found = launched(2, command(*words, "--data-harm-path", tmp_path / "no.jsonl"), tmp_path)
    assert [state for state, _ in found] == [2, 2]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0].count("no.jsonl") == 1 and said[1] == ""


KILLING = """
import os, signal, sys
from sst_merge.fim_calculator import gathering, kept_parts, together

together._PIECE, kept_parts._EVERY, take = 1, 0.0, gathering.Gathering.take

def taking(self, batch, index):
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    take(self, batch, index)

gathering.Gathering.take = taking
from sst_merge.cli.main import main
main()
"""


@pytest.mark.skipif(
    "SST_MERGE_KILLS" not in os.environ, reason="three processes import everything; `make kills` runs it"
)
def test_accelerate_ends_all_when_one_is_killed_and_the_command_goes_on(place: Path, tmp_path: Path) -> None:
    (tmp_path / "killing.py").write_text(KILLING)
    words = merging(place, "merge", "--method", "sst", "--set", "mu=1", "--set", "fisher.point=merged")
    words += ["--output", tmp_path / "out"]
    # Without --multi_gpu accelerate starts one process on a machine without GPUs.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *launch, "-m", "killing", *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    kept = {file.name.rpartition("-")[2]: Fisher.load(file) for file in (tmp_path / ".out.parts").iterdir()}
    assert kept["2of2.safetensors"].settings["batches"] == 1
    found = launched(2, command(*words), tmp_path / "said")
    assert [state for state, _ in found] == [0, 0]
    assert not (tmp_path / ".out.parts").exists()
    alone(*words[:-1], tmp_path / "one")
    same_numbers(tmp_path / "one" / WEIGHTS, tmp_path / "out" / WEIGHTS)
