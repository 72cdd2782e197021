"""Names of the hub on the command line: the same bytes as with folders, and the commits in the report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.merging.config import load_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WEIGHTS = "adapter_model.safetensors"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def place(hub: Any, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two adapters, a base and an aligned base: as folders here, and published."""
    for seed, name in enumerate(("base", "aligned")):
        build.tiny_model("llama", seed=seed).save_pretrained(tmp_path / "local" / name)
        hub.add(f"org/{name}", tmp_path / "local" / name)
    down = tuple(build.tiny_model("llama").model.layers[0].mlp.down_proj.weight.shape)
    for seed, name in enumerate(("code", "safety")):
        folder = tmp_path / "local" / name
        build.random_adapter({"model.layers.0.mlp.down_proj": down}, name=name, seed=seed).save(folder)
    hub.add("user/code", tmp_path / "local" / "code")
    hub.repos["models", "user/code"].refs["v1"] = hub.repos["models", "user/code"].refs["main"]
    files = {f"final/{file.name}": file.read_bytes() for file in (tmp_path / "local" / "safety").iterdir()}
    hub.add("user/safety", files)
    monkeypatch.chdir(tmp_path)
    return tmp_path


HUB = ("--adapter", "user/code@v1", "--adapter", "path=user/safety,role=safety")
LOCAL = ("--adapter", "local/code", "--adapter", "path=local/safety,role=safety")


def test_a_merge_is_the_same_as_with_folders(hub: Any, place: Path) -> None:
    bases = ("--method", "safe_lora", "--base-model", "{}base", "--aligned-base-model", "{}aligned")
    here, there = ([part.format(start) for part in bases] for start in ("local/", "org/"))
    dry = call("merge", *HUB, *there, "--output", "out", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "adapter  code: role utility" in dry.output and "nothing written" in dry.output
    assert (
        "warning  adapter 'safety': user/safety holds no adapter of its own; the only one below it, final" in dry.output
    )
    assert "adapter 'code': its weights are on the hub and were not fetched" in dry.output
    assert not list((place / "hub-cache").rglob("*.safetensors"))
    done = call("merge", *HUB, *there, "--output", "out")
    assert done.exit_code == 0, done.output
    assert call("merge", *LOCAL, *here, "--output", "same").exit_code == 0
    assert (place / "out" / WEIGHTS).read_bytes() == (place / "same" / WEIGHTS).read_bytes()
    report, same = (json.loads((place / name / "merge_report.json").read_text()) for name in ("out", "same"))
    commits = {name: repo.refs["main"] for (_, name), repo in hub.repos.items()}
    assert report["provenance"]["adapters"] == {
        "code": {"repo": "user/code", "revision": "v1", "commit": commits["user/code"]},
        "safety": {"repo": "user/safety", "revision": None, "commit": commits["user/safety"], "subfolder": "final"},
    }
    assert report["provenance"]["base"]["commit"] == commits["org/base"]
    assert report["provenance"]["aligned_base"] == {"revision": None, "commit": commits["org/aligned"]}
    assert [item["path"] for item in report["adapters"]] == ["user/code", "user/safety/final"]
    assert [item["files"] for item in report["adapters"]] == [item["files"] for item in same["adapters"]]
    assert report["base_model"] == "org/base" and "adapters" not in same["provenance"]


def test_refusals_come_before_anything_is_fetched(hub: Any, place: Path) -> None:
    hub.repos["models", "user/safety"].gated = "nobody"
    hub.add("org/closed", {"config.json": b"{}"}, gated="nobody")
    hub.add("org/rows", {"train.jsonl": b"{}"}, kind="datasets", gated="nobody")
    for arguments, said in (
        (
            ("--adapter", "user/code", "--adapter", "user/cod"),
            f"user/cod: no such folder ({place}/user/cod), and on the hub: there is no model",
        ),
        (("--adapter", "user/code@v2"), "user/code has no revision 'v2'"),
        (("--adapter", "./user/code"), "user/code does not exist; correct the path"),
        (HUB, "user/safety is gated: accept its licence"),
        (("--adapter", "user/code", "--aligned-base-model", "org/none"), "no model repository org/none"),
        (("--adapter", "user/code", "--aligned-base-model", "org/closed"), "org/closed is gated: accept its licence"),
        (
            ("--adapter", "user/code", "--data-harm-dataset", "org/rows"),
            f"data set org/rows: no such folder here, and on the hub: org/rows is gated: accept its licence at "
            f"{hub.url}/datasets/org/rows",
        ),
    ):
        failed = call("merge", *arguments, "--output", "out", "--dry-run")
        assert failed.exit_code == 2 and said in failed.output, failed.output
    assert not list((place / "hub-cache").rglob(WEIGHTS))


def test_a_path_beside_the_configuration_wins(hub: Any, place: Path) -> None:
    (place / "configs").mkdir()
    text = "adapters: [{path: user/code}, {path: ../user/safety, name: x}, {path: user/safety@v1}]\n"
    (place / "configs" / "merge.yaml").write_text(f"{text}output: {{path: out}}\n")
    found = [adapter.reference for adapter in load_config(place / "configs" / "merge.yaml").adapters]
    assert found == ["user/code", place / "configs" / "../user/safety", "user/safety@v1"]
    (place / "configs" / "user" / "code").mkdir(parents=True)
    adapters = load_config(place / "configs" / "merge.yaml").adapters
    assert [adapter.label for adapter in adapters] == ["code", "x", "safety"]
    assert adapters[0].reference == place / "configs" / "user" / "code"


def test_inspect_and_evaluate(hub: Any, place: Path) -> None:
    done = call("inspect", "user/code@v1", "user/safety/final", "--json")
    assert done.exit_code == 0, done.output
    assert [item["name"] for item in json.loads(done.stdout)["adapters"]] == ["code", "final"]
    from sst_merge.cli.evaluate import _adapter
    from sst_merge.evaluation import find_adapters
    from sst_merge.evaluation.config import NamedFolder

    commit = hub.repos["models", "user/safety"].refs["main"]
    found = find_adapters([
        _adapter(NamedFolder.model_validate(text), None) for text in ("user/safety", "mine=local/code")
    ])
    assert list(found) == ["safety", "mine"]
    assert found["safety"].parts[-3:] == ("snapshots", commit, "final")


def test_the_environment_alone_decides(hub: Any, place: Path) -> None:
    home = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(place / "home"),
        "HF_TOKEN": "hf_read",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | home
    hub.repos["models", "user/safety"].gated = "token"
    command = [sys.executable, "-c", "from sst_merge.cli.main import main; main()", "merge", *HUB, "--output", "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Fetching" not in done.stderr and "%|" not in done.stderr  # no bars where there is no terminal
    assert (place / "home" / "hub" / "models--user--safety" / "refs" / "main").is_file()
    assert call("merge", *LOCAL, "--output", "same").exit_code == 0
    assert (place / "out" / WEIGHTS).read_bytes() == (place / "same" / WEIGHTS).read_bytes()
