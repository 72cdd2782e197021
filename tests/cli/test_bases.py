"""The base of a merge on the command line: found by accident it helps, asked for it must be right."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input="y\n")


def named(folder: Path, base: object) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture
def adapter(build: Any, tmp_path: Path) -> Path:
    return build.adapter_folder(build.tiny_model("llama"), tmp_path / "adapter", targets=["q_proj"], r=2)


def written(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "of-next-year", "architectures": ["OfNextYear"]},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "wide"},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 0},
        {"model_type": "own", "auto_map": {"AutoConfig": "c.C"}},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 7, "n_head": 2},
        [],
    ],
    ids=["newer", "wrong type", "no such layer", "remote code", "impossible", "no object"],
)
def test_a_base_that_was_only_found_never_stops_a_merge(adapter: Path, config: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(config))
    (base / "c.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\n")
    out = tmp_path / "out"
    done = call("merge", "--adapter", named(adapter, base), "--output", out)
    assert done.exit_code == 0, done.output
    assert "were not checked against the layers of" in done.stderr and "Traceback" not in done.output
    assert written(out) == str(base) and not (tmp_path / "EXECUTED").exists()
    assert call("merge", "--adapter", adapter, "--output", tmp_path / "dry", "--dry-run").exit_code == 0


def test_the_base_that_was_given_still_has_to_fit(build: Any, adapter: Path, tmp_path: Path) -> None:
    build.tiny_model("gpt2").save_pretrained(tmp_path / "gpt2")
    out = tmp_path / "out"
    done = call("merge", "--adapter", adapter, "--base-model", tmp_path / "gpt2", "--output", out)
    assert done.exit_code == 2 and "matches no layer of the base model" in done.stderr
    for nothing in (tmp_path / "nowhere", tmp_path):
        done = call("merge", "--adapter", adapter, "--base-model", nothing, "--output", tmp_path / "x" / "out")
        assert done.exit_code == 2, done.output
    # A method that runs it needs more than its name.
    done = call(
        "merge", "--adapter", adapter, "--base-model", "org/unreachable", "--output", out, "--method", "regmean"
    )
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_a_name_that_exists_is_written(adapter: Path, build: Any, tmp_path: Path) -> None:
    named(adapter, tmp_path / "gone")
    out = tmp_path / "out"
    done = call("merge", "--adapter", adapter, "--output", out)
    assert done.exit_code == 0 and "is not on this machine" in done.stderr and written(out) is None
    # Offline, an id cannot be looked up; it is a name all the same.
    done = call("merge", "--adapter", adapter, "--base-model", "org/base", "--output", out, "--force")
    assert done.exit_code == 0 and written(out) == "org/base"
    build.tiny_model("llama").save_pretrained(tmp_path / "base")
    done = call("merge", "--adapter", adapter, "--base-model", tmp_path / "base", "--output", out, "--force")
    assert done.exit_code == 0 and written(out) == str(tmp_path / "base")


def test_adapters_of_a_plain_model_are_checked_against_it(build: Any, tmp_path: Path) -> None:
    """Saved as a language model, adapted without its head: the names differ by a prefix."""
    model = build.tiny_model("llama")
    model.save_pretrained(tmp_path / "base")
    adapter = build.adapter_folder(
        model.model, tmp_path / "adapter", targets=["q_proj"], task_type="FEATURE_EXTRACTION"
    )
    done = call("merge", "--adapter", named(adapter, tmp_path / "base"), "--output", tmp_path / "out")
    assert done.exit_code == 0 and "Warning" not in done.stderr


def test_a_dry_run_finds_weights_that_may_not_be_read(adapter: Path, build: Any, tmp_path: Path) -> None:
    import torch

    base = tmp_path / "base"
    model = build.tiny_model("llama")
    model.config.save_pretrained(base)
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}))
    flags = ["--adapter", adapter, "--base-model", base, "--method", "regmean", "--output", tmp_path / "out"]
    flags += ["--data-harm-path", tmp_path / "rows.jsonl", "--data-benign-path", tmp_path / "rows.jsonl", "--dry-run"]
    done = call("merge", *flags)
    assert done.exit_code == 2 and "found pytorch_model.bin but no safetensors" in done.output
    assert call("merge", *flags, "--allow-pickle").exit_code == 0
