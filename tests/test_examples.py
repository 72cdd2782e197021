"""The examples: each file merges, with as few prompts as can be wrong, and prints what its page says."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sst_merge.cli.main import cli
from sst_merge.worlds.lab import Lab

FOLDER = Path(__file__).parents[1] / "examples" / "lab"
FILES = sorted(FOLDER.glob("*.yaml"))
NAMES = [path.stem for path in FILES if "adapters" in yaml.safe_load(path.read_text(encoding="utf-8"))]
FEW = 2
# Of seven kinds of layers one is left where data are read.
REST = ["q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def small(path: Path, out: Path) -> Path:
    """The same configuration elsewhere; one that reads data with few prompts, few layers and, without a search, a μ."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = [*config["adapters"], *config.get("data", {}).values()]
    places += [one["data"] for one in config["adapters"] if "data" in one]
    for place in places:
        if isinstance(place, dict) and "path" in place:
            place["path"] = str((FOLDER / place["path"]).resolve())
            if place["path"].endswith(".jsonl"):
                place["samples"] = FEW
    config["base_model"] = str((FOLDER / config["base_model"]).resolve())
    if config["merge"]["method"] == "sst":
        config["merge"].pop("tax_budget", None)
        config["merge"]["mu"] = 2.0
        config["leave_out"] = REST
    config["output"]["path"] = str(out)
    written = out.with_suffix(".yaml")
    written.write_text(yaml.safe_dump(config), encoding="utf-8")
    return written


def test_the_page_shows_every_example() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"sst-merge \w+ examples/lab/(\w+)\.yaml", text))) == [path.stem for path in FILES]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    source = FOLDER / f"{name}.yaml"
    assert source.read_text(encoding="utf-8").splitlines()[1] == f"#   sst-merge merge examples/lab/{name}.yaml"
    done = CliRunner().invoke(cli, ["merge", str(small(source, tmp_path / name))], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("merged ")]
    said = said.replace(" 4 modules", " 28 modules")
    assert f"\n    {said}\n    examples/lab/out/{name}\n" in (FOLDER / "README.md").read_text(encoding="utf-8")
    report = json.loads((tmp_path / name / "merge_report.json").read_text(encoding="utf-8"))
    assert len(report["adapters"]) == len(yaml.safe_load(source.read_text(encoding="utf-8"))["adapters"])


def test_the_search_runs(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra search is not installed")
    words = ["search", str(FOLDER / "search.yaml"), "--trials", "2", "--out", str(tmp_path / "search")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "search" / "trials.csv").is_file()


def test_the_prompts_are_calibration_prompts_of_the_lab(lab: Lab) -> None:
    """What is measured with `lab evaluate` is in no calibration split, so in none of these files."""
    for file in sorted((FOLDER / "data").glob("*.jsonl")):
        kinds = {"harmful": ("harmful", "jailbreak"), "general": ("general",)}.get(file.stem, (f"task:{file.stem}",))
        dealt = {(s.prompt, s.response) for kind in kinds for s in lab.world.samples(kind, "calibration", 64)}
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 64
        assert {(row["prompt"], row["response"]) for row in rows} <= dealt
