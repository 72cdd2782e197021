"""Every command that prints or writes names, with names that have markup of every target in them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.evaluation import evaluate_models, read_summary
from sst_merge.evaluation.records import read_records
from sst_merge.files import file_name
from sst_merge.lora_utils import Adapter
from sst_merge.suites.custom import custom_suite
from sst_merge.texts import visible


def printed(result: Result) -> str:
    """What a command printed, held to be free of what a terminal obeys."""
    assert result.exit_code == 0, result.output
    found = result.stdout + result.stderr
    assert visible(found, keep="\n") == found
    return found


@pytest.fixture(scope="module")
def folders(build: Any, nasty_names: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → a tiny adapter in a plainly named folder."""
    root = tmp_path_factory.mktemp("adapters")
    found = {}
    for seed, name in enumerate(nasty_names):
        adapter = build.random_adapter({"model.layers.0.q_proj": (6, 5)}, name=name, rank=1, seed=seed)
        factors = {module: adapter.factors(module) for module in adapter.modules}
        found[name] = Adapter.from_factors(factors, name=name).save(root / str(seed))
    return {name: root / str(seed) for seed, name in enumerate(nasty_names)}


def test_merge(folders: dict[str, Path], tmp_path: Path) -> None:
    listed = [{"name": name, "path": str(folder)} for name, folder in folders.items()]
    config = tmp_path / "merge.yaml"
    config.write_text(yaml.safe_dump({"adapters": listed, "output": {"path": str(tmp_path / "out")}}))
    plan = printed(CliRunner().invoke(cli, ["merge", str(config), "--dry-run"]))
    assert all(visible(name) in plan for name in folders)
    printed(CliRunner().invoke(cli, ["merge", str(config)]))
    report = json.loads((tmp_path / "out/merge_report.json").read_text(encoding="utf-8"))
    assert [adapter["name"] for adapter in report["adapters"]] == list(folders)
    for file in ("README.md", "merge_report.html"):
        text = (tmp_path / "out" / file).read_text(encoding="utf-8")
        assert visible(text, keep="\n") == text and "<script>alert" not in re.sub(r"\\<script>", "", text)


def test_inspect(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("[x](javascript:alert(1))", "[red]x[/red] [/x] :skull:", "\x1b[31mred\x1b[0m\x07", "$x_{1}$"):
        # Commas and equal signs part the fields of this argument; none of these names has one.
        chosen = [f"name={name},path={folders[name]}", str(folders["数学"])]
        assert visible(name) in printed(CliRunner().invoke(cli, ["inspect", *chosen, "--no-signs"]))
    stem = tmp_path / "map"
    found = CliRunner().invoke(cli, ["inspect", *chosen, "--json", "--heatmap", str(stem), "--no-signs"])
    printed(found)
    assert json.loads(found.stdout)["adapters"][0]["name"] == name and stem.with_suffix(".svg").is_file()


def test_an_error_and_its_value_cannot_move_the_cursor(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2Jb\u202e"
    done = CliRunner().invoke(cli, ["merge", "--adapter", str(folder), "--output", str(tmp_path / "out")])
    assert done.exit_code == 2 and r"a\x1b[2Jb\u202e" in done.stderr and "\x1b[2J" not in done.stderr


def test_evaluate_keeps_every_model_and_suite(base: str, adapters: dict[str, Path], cpu: Any, tmp_path: Path) -> None:
    models = ["数学", "安全", "a/b", "a b", "../up", "$x$", "a\x1b"]
    suites = []
    for name in ("数学", "安全"):
        file = tmp_path / f"{name}.jsonl"
        lines = [{"prompt": f"what is a {name} ?", "answer": "no", "tags": {"$kind$": name}}]
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        suites.append(custom_suite(file))
    out = tmp_path / "out"
    evaluate_models(base, dict.fromkeys(models, adapters["safety"]), suites, out, max_new_tokens=2, settings=cpu)
    for model in ("base", *models):
        for suite in suites:
            (record,) = read_records(out / "records" / file_name(model) / f"{file_name(suite.name)}.jsonl")
            assert (record.model, record.suite) == (model, suite.name)
    assert len(list((out / "records").rglob("*.jsonl"))) == len(suites) * (1 + len(models))
    assert read_summary(out / "summary.json").models == ("base", *models)
