"""``sst-merge export`` and ``sst-merge extract``, as a user types them."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import huggingface_hub
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from sst_merge import Adapter, merge
from sst_merge.cli.main import cli
from sst_merge.reporting import model_card

PARTS = {"q_proj": (16, 16), "k_proj": (8, 16)}
SHAPES = {f"model.layers.{i}.self_attn.{part}": shape for i in (0, 1) for part, shape in PARTS.items()}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a merge of two adapters of it with its report and card."""
    root = tmp_path_factory.mktemp("place")
    build.tiny_model("llama").save_pretrained(root / "base")
    parts = [build.random_adapter(SHAPES, name=name, rank=6, seed=seed) for seed, name in enumerate("ab")]
    parts = [
        Adapter.from_factors({m: p.factors(m) for m in p.modules}, name=p.name, base_model="user/base") for p in parts
    ]
    merge(parts, "task_arithmetic").save(root / "merged", extra_files={"README.md": model_card})
    (root / "merged/chat_template.jinja").write_text("{{ messages }}")
    return root


def test_a_servers_rank(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = call("export", place / "merged", "--to", "peft", "--serve-rank", 8, "-o", out, "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "% of the energy is lost; 2 of 4 modules are cut" in plan.stdout
    assert f"modules of rank 8 go to {out}" in plan.stdout
    assert not out.exists()
    done = call("export", place / "merged", "--to", "peft", "--serve-rank", 8, "--dtype", "bfloat16", "-o", out)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == (
        f"Next: vllm serve user/base --enable-lora --max-lora-rank 8 --lora-modules merged={out}"
    )
    adapter = Adapter.load(out)
    assert {adapter.rank(module) for module in adapter.modules} == {8}
    report = json.loads((out / "export_report.json").read_text())
    # 12 of rank in 16 or 8 dimensions: 8 rows of k_proj hold all of it, q_proj loses some.
    lost = {module: figures["lost_energy"] for module, figures in report["modules"].items()}
    assert {module for module, share in lost.items() if share > 1e-12} == {m for m in SHAPES if m.endswith("q_proj")}
    assert 0.0 < report["lost_energy"] < max(lost.values()) < 0.5
    assert (report["form"], report["settings"]) == ("peft", {"rank": 8, "dtype": "bfloat16"})
    assert report["merge"] == json.loads((place / "merged/merge_report.json").read_text())
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert "base_model: user/base" in (out / "README.md").read_text()
    again = call("export", place / "merged", "--to", "peft", "--serve-rank", 8, "-o", out)
    assert again.exit_code == 2 and "--force" in again.stderr


def test_gguf_and_ollama(place: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    common = ("--base", place / "base", "--dtype", "float16")
    done = call("export", place / "merged", "--to", "gguf", *common, "-o", tmp_path / "gguf")
    assert done.exit_code == 0, done.output
    file = tmp_path / "gguf/merged-lora-f16.gguf"
    assert done.stderr.splitlines()[-1] == f"Next: llama-server -m BASE.gguf --lora {file}"
    assert len(gguf.GGUFReader(file).tensors) == 2 * len(SHAPES)
    done = call(
        "export", place / "merged", "--to", "ollama", *common, "--from", "llama3.2:1b", "-o", tmp_path / "ollama"
    )
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "ollama").iterdir()} == {
        "Modelfile",
        "README.md",
        "adapter.gguf",
        "export_report.json",
    }
    lines = (tmp_path / "ollama/Modelfile").read_text().splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if not line.startswith("#")]
    assert instructions == [["FROM", "llama3.2:1b"], ["ADAPTER", "./adapter.gguf"]]
    for line in lines:
        if line.startswith("#"):  # a commented instruction must be right where the comment is taken away
            assert re.match(r"# (Run: |The chat|TEMPLATE \"\"\".*\"\"\"$|PARAMETER \w+ \d+$)", line), line


@pytest.mark.parametrize("source", ["missing.gguf", "./folder", "two words", "a/b/c/d", "line\nbreak"])
def test_a_base_that_ollama_could_not_find(place: Path, tmp_path: Path, source: str) -> None:
    pytest.importorskip("gguf")
    arguments = ("--to", "ollama", "--base", place / "base", "--from", source, "-o", tmp_path / "out")
    done = call("export", place / "merged", *arguments)
    assert done.exit_code == 2 and "no name of a model of Ollama's" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_whole_model_and_an_adapter_of_it(place: Path, tmp_path: Path) -> None:
    arguments = ("export", place / "merged", "--to", "full", "--base", place / "base", "-o", tmp_path / "full")
    plan = call(*arguments, "--dry-run")
    assert plan.exit_code == 0 and "a model of 0.000 GB goes to" in plan.stdout, plan.output
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "4 of 21 tensors changed"
    card = (tmp_path / "full/README.md").read_text()
    assert "base_model: user/base\nbase_model_relation: merge" in card and str(place) not in card
    told = json.loads(call(*arguments, "--force", "--json").stdout)
    assert told["report"] == json.loads((tmp_path / "full/export_report.json").read_text())
    back = ("extract", "--base", place / "base", "--model", tmp_path / "full", "--rank", 12, "-o", tmp_path / "back")
    done = call(*back)
    assert done.exit_code == 0, done.output
    assert "4 modules, 12 more are the base's own; nothing but rounding is lost\n" in done.stdout
    assert "Largest losses" not in done.stdout
    fewer = call("extract", "--base", place / "base", "--model", tmp_path / "full", "--rank", 1, "-o", tmp_path / "one")
    assert "% of the energy is lost\nLargest losses" in fewer.stdout
    found, merged = Adapter.load(tmp_path / "back"), Adapter.load(place / "merged")
    for module in merged.modules:
        expected = merged.delta(module)
        assert float((found.delta(module) - expected).norm() / expected.norm()) < 1e-5
    assert load_file(tmp_path / "back/adapter_model.safetensors")


def test_pushing_says_first_what_would_be_sent(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the hub was asked: {name}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Nobody)
    done = call("export", place / "merged", "--push", "user/merged", "--dry-run")
    assert done.exit_code == 0, done.output
    files = (
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "merge_report.json",
    )
    assert all(name in done.stdout for name in files)
    assert "user/merged (private): 5 files" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("nothing sent")
    arguments = ("--to", "peft", "-o", tmp_path / "out", "--push", "user/merged", "--public", "--dry-run")
    done = call("export", place / "merged", *arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"then {tmp_path / 'out'} would be sent to user/merged (public)"
    done = call("export", place / "merged", "--push", "user/merged")
    assert done.exit_code == 2 and "nothing was sent" in done.stderr


def test_what_is_pushed_is_what_lies_there(
    hub: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the stand-in for the hub, over HTTP: refused without the right, then sent, private, and merged from there."""
    pushed = ("export", place / "merged", "--push", "user/merged")
    for token, said in ((None, "no token is set here; log in"), ("hf_read", "the rights to create a model")):
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        refused = call(*pushed)
        assert refused.exit_code == 2 and "nothing was sent" in refused.stderr and said in refused.stderr
    assert hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    done = call(*pushed)
    assert done.exit_code == 0, done.output
    repo = hub.repos["models", "user/merged"]
    sent = repo.commits[repo.refs["main"]]
    assert repo.private and f"{hub.url}/user/merged/commit/{repo.refs['main']}" in done.stdout
    assert sorted(sent) == sorted(file.name for file in (place / "merged").iterdir())
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert sent[name] == (place / "merged" / name).read_bytes()
    assert b"user/merged" in sent["README.md"], "in place of the folder's name"
    again = Adapter.load("user/merged")
    assert all(torch.equal(again.delta(m), Adapter.load(place / "merged").delta(m)) for m in again.modules)
    repo.private = False
    shy = call(*pushed)
    assert shy.exit_code == 2 and "everybody can see it; nothing was sent. Say --public" in shy.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --to FORM"),
        (("--to", "peft"), "belong together"),
        (("-o", "out", "--push", "a/b"), "belong together"),
        (("--push", "a/b", "--serve-rank", "8"), "sends ADAPTER as it is"),
        (("--push", "a/b", "--dtype", "float16"), "sends ADAPTER as it is"),
        (("--to", "peft", "-o", "out", "--from", "x"), "--from belongs to --to ollama"),
        (("--to", "full", "-o", "out", "--serve-rank", "8"), "a whole model has no rank"),
        (("--to", "peft", "-o", "out", "--push", "no name"), "as user/name"),
        (("--to", "full", "-o", "out", "--base", "nobody/nothing"), "no such folder"),
    ],
)
def test_flags_that_do_not_belong_together(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("export", place / "merged", *arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["base", "base/inside", "merged", "."])
def test_what_is_read_is_not_replaced(place: Path, output: str) -> None:
    arguments = ("--to", "full", "--base", place / "base", "-o", place / output, "--force")
    done = call("export", place / "merged", *arguments)
    assert done.exit_code == 2 and "share a folder; choose another -o" in done.stderr
    assert (place / "base/config.json").is_file() and (place / "merged/adapter_config.json").is_file()


def test_the_pages_commands_are_commands() -> None:
    page = Path(__file__).parents[2] / "docs/exports.md"
    typed = [
        line.strip() for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("    sst-merge ")
    ]
    assert len(typed) >= 10
    for line in typed:
        _, name, *arguments = shlex.split(line, comments=True)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, arguments)


def test_only_adapters_and_exports_are_sent(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("private")
    done = call("export", tmp_path, "--push", "user/name", "--dry-run")
    assert done.exit_code == 2 and "expected an adapter or an export" in done.stderr
