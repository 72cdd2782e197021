"""``sst-merge search`` as a user types it, on the lab and on adapters and prompts of one's own."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.lora_utils import Adapter
from sst_merge.search.point import Point
from sst_merge.search.shared import SharedMerges
from sst_merge.worlds.merge_setup import merge_setup
from sst_merge.worlds.registry import open_world

if TYPE_CHECKING:
    from sst_merge.worlds.lab import Lab

pytest.importorskip("optuna", reason="the extra search is not installed")
pytest.importorskip("plotly", reason="the extra search is not installed")

LAB: dict[str, Any] = {
    "world": {"name": "lab", "seed": 0},
    "skills": ["swap_pairs"],
    "prompts": 8,
    "calibration": {"harm": 8, "benign": 8},
    "search": {"methods": ["task_arithmetic", "regmean"], "warm_start": 1, "trials": 4},
    "choose": {"safety": 0.0, "over_refusal": 1.0},
    "out": "found",
}


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["search", *map(str, words)], env={"COLUMNS": "80"})


def written(folder: Path, config: dict[str, Any]) -> Path:
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def results(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in {".csv", ".json", ".html", ".yaml"}}


def test_a_search_on_the_lab(relative_error: Callable[[torch.Tensor, torch.Tensor], float], tmp_path: Path) -> None:
    file, out = written(tmp_path, LAB), tmp_path / "found"
    first = call(file, "--trials", 2)
    assert first.exit_code == 0, first.output
    table = [line for line in first.stdout.splitlines() if line.startswith(("┏", "┃", "│", "└"))]
    assert table and max(map(len, table)) <= 80
    longer = call(file, "--json")
    assert longer.exit_code == 0, longer.output
    said = json.loads(longer.stdout)
    assert said["measured"] == 4 and said["new"] <= 2 and said["failed"] == 0, "what was measured is not measured again"
    before = results(out)
    again = call(file, "--json")
    assert json.loads(again.stdout)["new"] == 0 and results(out) == before
    # The command that the page shows makes the merge that was measured: RegMean's, which reads the calibration data.
    trials = json.loads((out / "search.json").read_text())["trials"]
    (trial, *_) = [trial for trial in trials if trial["method"] == "regmean"]
    page = (out / "index.html").read_text(encoding="utf-8")
    command = shlex.join(["sst-merge", "merge", str(out / trial["merge"])])
    assert command in page
    merged = CliRunner().invoke(cli, shlex.split(command)[1:])
    assert merged.exit_code == 0, merged.output
    adapter = Adapter.load(out / "merged" / f"trial_{trial['trial']}")
    setup = merge_setup(open_world("lab"), ["swap_pairs"], harm_samples=8, benign_samples=8)
    point = Point("", "regmean", trial["options"], trial["safety_weight"])
    for module, factors in SharedMerges(setup.problem).update(point).items():
        # The inverse of moments of eight rows makes much of rounding.
        assert relative_error(adapter.delta(module), factors.delta()) < 0.01


def test_a_search_on_own_adapters_and_prompts(lab: "Lab", tmp_path: Path) -> None:
    """Oracle: the lab's own measure of the same prompts, for which neither harness nor judge is needed."""
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    from sst_merge.worlds.asking import measure
    from sst_merge.worlds.lab.lab_world import LabWorld
    from sst_merge.worlds.updates import UpdatedModel

    world = LabWorld(lab)
    kinds = {"harm": ["harmful", "jailbreak"], "alike": ["lookalike"], "swap": ["task:swap_pairs"]}
    for name, of in kinds.items():
        asked = [question for kind in of for question in world.questions(kind, 6, split="dev")]
        lines = [{"prompt": q.prompt} | ({"answer": q.response} if name == "swap" else {}) for q in asked]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "merge": {
            "base_model": str(lab.base_path("unaligned")),
            "device": "cpu",
            "adapters": [
                {"path": str(lab.adapter_path("swap_pairs")), "name": "swap_pairs"},
                {"path": str(lab.adapter_path("safety")), "name": "safety", "role": "safety"},
            ],
        },
        "dev": {"suites": ["harm.jsonl:safety", "alike.jsonl:over_refusal", "swap.jsonl"], "max_new_tokens": 24},
        "search": {"methods": ["Task Arithmetic"], "warm_start": 1, "trials": 1},
        "out": "found",
    }
    done = call(written(tmp_path, config))
    assert done.exit_code == 0, done.output
    (trial,) = json.loads((tmp_path / "found" / "search.json").read_text())["trials"]
    setup = merge_setup(world, ["swap_pairs"], harm_samples=8, benign_samples=8)
    update = SharedMerges(setup.problem).update(Point("", trial["method"], trial["options"]))
    with UpdatedModel(setup.model, list(setup.problem.spaces)) as updated:
        updated.set(update)
        expected = measure(world, setup.model, setup.tasks, split="dev", n=6)
    assert trial["counts"]["skills"] == {"custom_swap": [expected.mean_utility, 6]}
    # The lab knows one refusal word for word, which the rules take for one; they also take others.
    for name, of in (("safety", expected.safety), ("over_refusal", expected.over_refusal)):
        yes, n = trial["counts"][name]
        assert of.k <= yes <= n == of.n
    assert trial["counts"]["safety"][0] > trial["counts"]["over_refusal"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world": None}, "give either world and skills, or merge and dev"),
        ({"skills": []}, "skills: missing; the world has"),
        ({"search": {"methods": ["tiez"]}}, "did you mean 'TIES'"),
        ({"search": {"methods": ["ties"], "options": {"sst": {"mu": [1]}}}}, "'sst' is not searched; expected one of"),
        ({"search": {"methods": ["ties"], "options": {"ties": {"density": {"low": 0.5, "high": 2}}}}}, "density"),
        ({"serach": {}}, "did you mean 'search'"),
        ({"dev": {"suites": ["a", "b"]}}, "a world has dev prompts of its own"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_tried(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    done = call(written(tmp_path, {**LAB, **changes}), "--dry-run")
    assert done.exit_code == 2 and said in done.output, done.output
    assert not (tmp_path / "found").exists()


def test_a_dry_run_says_what_would_be_tried(tmp_path: Path) -> None:
    done = call(written(tmp_path, LAB), "--dry-run", "--json")
    said = json.loads(done.stdout)
    assert said["trials"] == 4 and said["warm_start"] == 3
    assert said["forms"]["RegMean"] == {"knob": "safety weight", "range": "0.3 to 12, logarithmic", "options": {}}
    assert not (tmp_path / "found").exists()
    words = [str(tmp_path / "search.yaml"), "--time", "5", "--safety", "0.8", "--workers", "2"]
    dry = call(*words, "--dry-run")
    assert shlex.join(["sst-merge", "search", *words]) in dry.stderr, "the command that does it"
