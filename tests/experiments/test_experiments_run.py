"""The experiments end to end at micro size on the shipped lab: resume, same bytes, tables from stored cells."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from sst_merge.baselines import calibration_only
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import DataError, SSTMergeError
from sst_merge.experiments.cells import Cell, CellStore
from sst_merge.experiments.config import ExperimentConfig, load_experiment_config
from sst_merge.experiments.estimate import prompts_of
from sst_merge.experiments.interference_work import interference_cell
from sst_merge.experiments.method_sweeps import TWO_STAGE_SWEEPS
from sst_merge.experiments.provenance import code_digest
from sst_merge.experiments.run import Experiments
from sst_merge.experiments.runner import run_cells
from sst_merge.experiments.training import training_stages

LAB = Path(__file__).resolve().parents[2] / "configs" / "experiment_config.yaml"
METHODS = ["Task Arithmetic", "SST-Merge"]


def _micro(**overrides: object) -> ExperimentConfig:
    small = {
        "prompts": {"dev": 8, "test": 8},
        "calibration": {"harm": 8, "benign": 8},
        "n_resamples": 100,
        "workers": 1,
        "strengths": 3,
        "safety_tax.groups": [{"name": "one skill", "skills": ["swap_pairs"], "methods": METHODS}],
        "safety_tax.drift.groups": [{"name": "one expert", "skills": ["swap_pairs"], "methods": METHODS}],
        "interference.sizes": [2],
        "interference.families": ["swap_pairs", "add"],
        "interference.methods": METHODS,
        "interference.samples_per_skill": 4,
        "interference.prompts": {"dev": 8, "test": 8},
        "interference.poisoned_sizes": [],
        "comparison.methods": ["Task Arithmetic"],
        "comparison.ablation": {
            "seeds": [0],
            "prompts": {"dev": 8, "test": 8},
            "structures": [],
            "estimators": [],
            "points": [],
            "combines": [],
            "hard_filter": True,
            "samples": [],
            "damping": [],
            "cross_structures": [],
            "without_skill_data": False,
        },
    }
    return load_experiment_config(LAB, quick=True, overrides=small | overrides)


def _deterministic(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in folder.iterdir()
        if p.suffix in {".json", ".md", ".png", ".svg"} or p.name == "records.jsonl"
    }


@pytest.fixture(scope="module")
def tax(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    experiments = Experiments(_micro(), tmp_path_factory.mktemp("results"))
    experiments.run("exp1")
    return experiments


def _shares(*outcomes: str) -> list[float]:
    return [text.count("1") / len(text) for text in outcomes]


def test_experiment_1_end_to_end(tax: Experiments) -> None:
    folder = tax.out / "exp1_safety_tax"
    figures = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["figures"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["method"] for r in records] == ["alone", *METHODS, "alone", *METHODS]
    for method in METHODS:
        ours = figures["one skill"]["0.9"][method]
        sweep = next(r["result"] for r in records if r["method"] == method and r["part"] == "tax")
        alone = records[0]["result"]
        # The strength by hand: the first whose dev refusals reach the threshold.
        reached = [i for i, d in enumerate(sweep["dev"]) if (d["harmful"] + d["jailbreak"]).count("1") / 16 >= 0.9]
        assert ours["strengths"] == [reached[0] if reached else None]
        if reached:
            right = sweep["test"][reached[0]]["right"]
            expert = alone["expert swap_pairs"]["test"]["right"]["task:swap_pairs"].count("1")
            tax_by_hand = (expert - right["task:swap_pairs"].count("1")) / expert
            assert ours["tax"]["value"] == pytest.approx(tax_by_hand)
        harm, harmless = np.array([
            (0.0, 0.0),
            (1.0, 1.0),
            *(
                _shares(of["right"]["harmful"] + of["right"]["jailbreak"], of["other"]["lookalike"])
                for of in sweep["test"]
            ),
        ]).T
        mixture = {"A_eq": np.ones((1, len(harm))), "b_eq": [1.0]}
        least = linprog(harmless, A_ub=-harm[None], b_ub=[-0.9], **mixture).fun
        found = figures["one skill"]["over-refusal"]["0.9"][method]["over-refusal"]["value"]
        assert found == pytest.approx(least, abs=1e-9)
    drift = figures["drift, one expert"]
    before = records[3]["result"]["base"]["test"]["right"]
    after = records[3]["result"]["skills alone"]["test"]["right"]
    lost = sum(before[k].count("1") - after[k].count("1") for k in ("harmful", "jailbreak")) / 16
    assert drift["plain merging"]["drift"]["value"] == pytest.approx(lost)
    assert all((folder / f"{name}_one_skill.png").stat().st_size > 1000 for name in ("front", "refusals"))


def test_tables_come_back_from_stored_cells_byte_for_byte(tax: Experiments) -> None:
    folder = tax.out / "exp1_safety_tax"
    before = _deterministic(folder)
    assert len(before) >= 7
    for path in folder.iterdir():
        path.unlink()
    Experiments(tax.config, tax.out).report("exp1")
    assert _deterministic(folder) == before


def test_the_same_seed_gives_the_same_bytes(tax: Experiments, tmp_path: Path) -> None:
    cells = [entry.cell for entry in tax.planned("exp1") if entry.label == "SST-Merge"]
    other = CellStore(tmp_path)
    # In two processes, of which each takes its next cell while the other is still at work.
    assert len(cells) == 2
    third = next(entry.cell for entry in tax.planned("exp1") if entry.label == "Task Arithmetic")
    cells.append(third)
    assert run_cells(cells, other, workers=2) == 3
    for cell in cells:
        assert other.load(cell)["result"] == tax.store.load(cell)["result"]


def test_finished_cells_are_not_done_again(tax: Experiments) -> None:
    cells = [entry.cell for entry in tax.planned("exp1")]
    before = {cell.key: tax.store.path(cell).stat().st_mtime_ns for cell in cells}
    assert run_cells(cells, tax.store) == 0
    assert {cell.key: tax.store.path(cell).stat().st_mtime_ns for cell in cells} == before


def test_adapters_of_finished_cells_are_not_trained(
    tax: Experiments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Empty:
        def find(self, artefact: object) -> None:
            return None

    trained: list[str] = []
    monkeypatch.setattr("sst_merge.experiments.training.world_of", lambda world: Empty())
    monkeypatch.setattr(
        "sst_merge.experiments.run.run_cells", lambda cells, store, **_: trained.extend(c.title for c in cells)
    )
    tax.train("exp1")
    assert not trained
    Experiments(tax.config, tmp_path).train("exp1")
    assert any("safety" in title for title in trained) and any("swap_pairs" in title for title in trained)


def test_experiment_3_shares_cells_with_experiment_1(tax: Experiments) -> None:
    done = {entry.cell.key for entry in tax.planned("exp1")}
    planned = tax.planned("exp3")
    assert {e.cell.key for e in planned if e.part == "methods"} <= done
    tax.run("exp3")
    figures = json.loads((tax.out / "exp3_comparison" / "summary.json").read_text(encoding="utf-8"))["figures"]
    assert figures["cost"]["Task Arithmetic"]["seconds"]["value"] > 0
    assert set(figures["ablation"]) == {"defaults", "hard filter", "random subspace"}
    assert figures["ablation"]["hard filter"]["quotient held-out"][0] > 0
    page = tax.page(["exp1", "exp3"])
    assert tax.page(["exp1"], title="Some", made_by="hand").startswith("# Some\n\nMade by hand; do not edit.\n")
    for said in ("- commit: ", "torch ", "seeds of adapters: 0", "cells, ", "Safety tax", "Peak MiB"):
        assert said in page


def test_experiment_2_end_to_end(tmp_path: Path) -> None:
    experiments = Experiments(_micro(), tmp_path)
    experiments.run("exp2")
    lines = (tmp_path / "exp2_interference" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    alone, *merged = map(json.loads, lines)
    summary = json.loads((tmp_path / "exp2_interference" / "summary.json").read_text(encoding="utf-8"))
    figures = summary["figures"]["experts, 2 experts, skills alone"]
    for record in merged:
        shares = []
        for task in ("swap_pairs", "add"):
            expert = alone["result"][f"expert {task}"]["test"]["right"][f"task:{task}"].count("1")
            shares.append(record["result"]["skills"]["test"]["right"][f"task:{task}"].count("1") / expert)
        assert figures[record["method"]]["retention"]["value"] == pytest.approx(sum(shares) / 2)
        right = record["result"]["skills"]["test"]["right"]
        whole = sum(
            alone["result"][f"expert {t}"]["test"]["right"][f"task:{t}"].count("1") for t in ("swap_pairs", "add")
        )
        together = sum(text.count("1") for kind, text in right.items() if kind.startswith("task:")) / whole
        assert figures[record["method"]]["together"]["value"] == pytest.approx(together)
        assert set(record["result"]) == {"skills", "safe"}
        dev = record["result"]["skills"]["dev"]
        rates = [sum(text.count("1") for text in right.values()) for right in dev]
        assert record["result"]["skills"]["chosen"] == rates.index(max(rates))
        # Safety goes up to the first share that is safe on dev prompts.
        safe, shares = record["result"]["safe"], len(TWO_STAGE_SWEEPS[record["method"]].shares)
        refused = [sum(text.count("1") for text in of.values()) / sum(map(len, of.values())) for of in safe["dev"]]
        assert safe["reached"] == (refused[-1] >= 0.9) and all(rate < 0.9 for rate in refused[:-1])
        assert safe["chosen"] == (len(refused) - 1 if safe["reached"] else refused.index(max(refused)))
        assert safe["reached"] or len(refused) == shares


def test_experiment_2_of_skills_alone(tmp_path: Path) -> None:
    overrides = {"interference.with_safety": False, "interference.methods": ["Task Arithmetic"]}
    experiments = Experiments(_micro(**overrides), tmp_path)
    experiments.run("exp2")
    lines = (tmp_path / "exp2_interference" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    (merged,) = (record for record in map(json.loads, lines) if record["kind"] == "interference")
    assert set(merged["result"]) == {"skills"}
    summary = json.loads((tmp_path / "exp2_interference" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["figures"]) == {"experts, 2 experts, skills alone"}
    # An expert that learnt nothing: the mean is over the other one, and the table says so; all together as before.
    (cell,) = (entry.cell for entry in experiments.planned("exp2") if entry.label == "alone")
    found = experiments.store.load(cell)
    right = found["result"]["expert add"]["test"]["right"]
    right["task:add"] = "0" * len(right["task:add"])
    experiments.store.path(cell).write_text(json.dumps(found), encoding="utf-8")
    experiments.report("exp2")
    summary = json.loads((tmp_path / "exp2_interference" / "summary.json").read_text(encoding="utf-8"))
    figures = summary["figures"]["experts, 2 experts, skills alone"]["Task Arithmetic"]
    swapped = found["result"]["expert swap_pairs"]["test"]["right"]["task:swap_pairs"].count("1")
    kept = {task: text.count("1") for task, text in merged["result"]["skills"]["test"]["right"].items()}
    assert figures["retention"]["value"] == pytest.approx(kept["task:swap_pairs"] / swapped)
    whole = kept["task:swap_pairs"] + kept["task:add"]
    assert figures["together"]["value"] == pytest.approx(whole / swapped)
    assert "retention without add, of which the expert has no right answer" in experiments.page(["exp2"])


@pytest.mark.parametrize("with_safety", [True, False])
def test_the_control_learns_refusals_only_where_they_are_asked_for(
    with_safety: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {"interference.with_safety": with_safety, "interference.methods": ["Calibration data alone"]}
    planned = Experiments(_micro(**overrides), tmp_path).planned("exp2")
    (parameters,) = (entry.cell.parameters for entry in planned if entry.cell.kind == "interference")
    staged = {**parameters["staged"], "options": {"steps": 2}}
    learnt: list[int] = []

    def counting(attached: object, batch: Batch) -> torch.Tensor:
        learnt.append(len(batch))
        return likelihood(attached, batch)

    likelihood = calibration_only._likelihood
    monkeypatch.setattr(calibration_only, "_likelihood", counting)
    interference_cell({**parameters, "staged": staged})
    assert len(learnt) == 2 * (1 + with_safety)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    names = [f"cell {i}" for i in range(4)]
    script.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from sst_merge.experiments import work\nfrom sst_merge.experiments.cells import Cell, CellStore\n"
        "from sst_merge.experiments.runner import run_cells\n"
        "def slow(p):\n    time.sleep(0.0 if p['i'] < 2 else 60.0)\n    return {'i': p['i']}\n"
        "work.WORK = {'slow': slow}\n"
        "cells = [Cell('slow', f'cell {i}', {'i': i}) for i in range(4)]\n"
        "run_cells(cells, CellStore(Path(sys.argv[1])))\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    store = CellStore(tmp_path / "cells")
    process = subprocess.Popen([sys.executable, str(script), str(store.folder)], env=environment)
    cells = [Cell("slow", name, {"i": i}) for i, name in enumerate(names)]
    deadline = time.monotonic() + 120
    while not store.has(cells[1]) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [store.has(cell) for cell in cells] == [True, True, False, False]
    before = [store.path(cell).read_bytes() for cell in cells[:2]]
    done: list[int] = []
    from sst_merge.experiments import work

    patched = pytest.MonkeyPatch()
    patched.setattr(work, "WORK", {"slow": lambda p: done.append(p["i"]) or {"i": p["i"]}})
    assert run_cells(cells, store) == 2
    patched.undo()
    assert done == [2, 3]
    assert [store.path(cell).read_bytes() for cell in cells[:2]] == before


def test_processes_go_on_to_the_next_cells(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "from sst_merge.experiments import work\nfrom sst_merge.experiments.cells import Cell, CellStore\n"
        "from sst_merge.experiments.runner import Workers, run_cells\n"
        "work.WORK = {'who': lambda p: {'process': os.getpid()}}\n"
        "if __name__ == '__main__':\n"
        "    cells = [Cell('who', f'cell {i}', {'i': i}) for i in range(4)]\n"
        "    store = CellStore(Path(sys.argv[1]))\n"
        "    with Workers(2) as workers:\n"
        "        assert [run_cells(some, store, workers=workers) for some in (cells[:2], cells[2:])] == [2, 2]\n"
        "    print(os.getpid(), *(store.load(cell)['result']['process'] for cell in cells))\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "cells")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    parent, *workers = done.stdout.split()
    assert len(set(workers)) == 2 and parent not in workers and set(workers[:2]) == set(workers[2:])
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_workers_are_gone_when_their_parent_is_ended(end: signal.Signals, tmp_path: Path) -> None:
    """Each of two has finished a cell and is at work on its next one."""
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, sys, time\nfrom pathlib import Path\n"
        "from sst_merge.experiments import work\nfrom sst_merge.experiments.cells import Cell, CellStore\n"
        "from sst_merge.experiments.runner import run_cells\n"
        "def slow(p):\n    time.sleep(600.0 * (p['i'] % 2))\n    return {'i': p['i']}\n"
        "work.WORK = {'slow': slow}\n"  # in the workers too, which import this file
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))\n"  # as the command line does
        "    cells = [Cell('slow', f'cell {i}', {'i': i}) for i in range(4)]\n"
        "    run_cells(cells, CellStore(Path(sys.argv[1])), workers=2)\n",
        encoding="utf-8",
    )
    cells = [Cell("slow", f"cell {i}", {"i": i}) for i in range(4)]
    store = CellStore(tmp_path / "cells")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, str(script), str(store.folder)], env=environment)
    deadline = time.monotonic() + 240
    while not (store.has(cells[0]) and store.has(cells[2])) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = [
        int(pid)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    process.send_signal(end)
    assert process.wait(timeout=30) == (-end if end is signal.SIGKILL else 128 + end)
    assert [store.has(cell) for cell in cells] == [True, False, True, False]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children) >= 2 and not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_takes_longest_starts_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = [{"name": "one skill", "skills": ["swap_pairs"], "methods": [*METHODS, "SST-Merge, core inputs, refined"]}]
    experiments = Experiments(_micro(**{"safety_tax.groups": groups}), tmp_path)
    started: list[str] = []

    def record(cells: list[Cell], store: CellStore, *, stage: str, **_: object) -> int:
        if stage == "exp1":
            started.extend(cell.title for cell in cells)
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr("sst_merge.experiments.run.run_cells", record)
    with pytest.raises(KeyboardInterrupt):
        experiments.run("exp1")
    places = [
        next(i for i, title in enumerate(started) if title.startswith(f"{m}, one skill"))
        for m in ("SST-Merge, core inputs, refined", "SST-Merge", "Task Arithmetic")
    ]
    assert places == sorted(places)


def test_a_failed_cell_is_named_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sst_merge.experiments import work

    def sometimes(parameters: dict) -> dict:
        if parameters["i"] == 1:
            raise DataError("no such prompt")
        return {"i": parameters["i"]}

    monkeypatch.setattr(work, "WORK", {"kind": sometimes})
    cells = [Cell("kind", f"cell {i}", {"i": i}) for i in range(3)]
    store = CellStore(tmp_path)
    with pytest.raises(SSTMergeError, match=r"1 of 3 cells failed.*cell 1: no such prompt"):
        run_cells(cells, store)
    assert [store.has(cell) for cell in cells] == [True, False, True]


def test_a_cells_name_changes_with_what_its_result_depends_on(tax: Experiments, tmp_path: Path) -> None:
    cell = Cell("kind", "title", {"a": 1, "b": [2]}, {"code": "x"})
    assert Cell("kind", "another title", {"b": [2], "a": 1}, {"code": "x"}).key == cell.key
    for other in (
        Cell("other", "title", cell.parameters, cell.depends),
        Cell("kind", "title", {"a": 2, "b": [2]}, cell.depends),
        Cell("kind", "title", cell.parameters, {"code": "y"}),
    ):
        assert other.key != cell.key
    planned = {entry.label: entry.cell for entry in tax.planned("exp1") if entry.part == "tax"}
    depends = planned["SST-Merge"].depends
    assert set(depends["artefacts"]) == {"base unaligned", "safety", "swap_pairs"}
    assert "missing" not in depends["artefacts"].values()
    assert (
        depends["options"]["combine"] == "interpolate" and depends["code"] != planned["Task Arithmetic"].depends["code"]
    )
    bigger = Experiments(_micro(prompts={"dev": 8, "test": 9}), tmp_path).planned("exp1")
    assert not {e.cell.key for e in bigger} & {e.cell.key for e in tax.planned("exp1")}


def test_comments_and_sweeps_do_not_change_the_digest_of_code(tmp_path: Path) -> None:
    from sst_merge.experiments.provenance import _code

    texts = (
        '@method(name="f")\ndef f(x):\n    """Doc."""\n    return x + 1\n',
        "# why\n@method(name='f')\ndef f(x):\n    return (x\n            + 1)\n",
        '@method(name="f", sweeps=(1, 2))\ndef f(x):\n    return x + 1\n',
        '@method(name="f")\ndef f(x):\n    return x + 2\n',
    )
    digests = []
    for i, text in enumerate(texts):
        path = tmp_path / f"{i}" / "method.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        digests.append(_code(path))
    # The strengths of a sweep are parameters of its cells.
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert len(code_digest("sst_merge.experiments.work")) == 16


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    store, cell = CellStore(tmp_path), Cell("kind", "title", {})
    store.save(cell, {}, seconds=1.0, run={})
    store.path(cell).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"no JSON.*remove the file"):
        store.load(cell)


def test_the_outline_counts_without_doing_anything(tmp_path: Path) -> None:
    experiments = Experiments(_micro(strengths=None), tmp_path / "results")
    outline = experiments.outline(["exp1", "exp2"])
    assert outline.kinds["sweep"].cells == 4 and outline.kinds["interference"].cells == 2
    assert outline.seconds > 0 and not (tmp_path / "results").exists()
    sweep = next(e.cell for e in experiments.planned("exp1") if e.label == "SST-Merge")
    assert prompts_of(sweep) == 9 * (2 * 8 + 5 * 8)


def test_the_command(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sst_merge.cli.main import cli

    runner = CliRunner()
    out = str(tmp_path / "results")
    shown = runner.invoke(
        cli,
        [
            "experiment",
            "exp2",
            "--config",
            str(LAB),
            "--num_experts",
            "8",
            "--methods",
            "all",
            "--dry-run",
            "--out",
            out,
        ],
    )
    assert shown.exit_code == 0, shown.output
    # Five sets of 8, ten methods; the poisoned sets of the file beside them.
    assert "exp2: about" in shown.output and "interference" in shown.output
    wrong = runner.invoke(cli, ["experiment", "exp1", "--config", str(LAB), "--seeds", "one", "--out", out])
    assert wrong.exit_code == 2 and "--seeds: found 'one'" in wrong.output
    for name in ("exp1", "all"):
        wrong = runner.invoke(
            cli, ["experiment", name, "--config", str(LAB), "--quick", "--methods", "tise", "--dry-run", "--out", out]
        )
        assert wrong.exit_code == 2 and "method 'tise' is not known" in wrong.output
    assert not Path(out).exists()


def test_adapters_are_trained_beside_bases_they_do_not_need() -> None:
    def cell(lab: int, name: str | None, base: str) -> Cell:
        what = {"world": {"name": "lab", "seed": lab}, "adapter": name, "base": base, "seed": 0}
        return Cell("training", f"{name} on {base}, lab {lab}", what)

    base, here, there = cell(1, None, "unaligned"), cell(0, "add", "unaligned"), cell(1, "add", "unaligned")
    other = cell(1, "add", "aligned")
    assert training_stages([base, there, here, other]) == [[base, here, other], [there]]
    assert training_stages([there, here]) == [[there, here]]
    assert training_stages([]) == []
