"""The cookbook: every command runs, and prints what the page says, on a tiny model and a stand-in for the hub."""

import json
import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.training.conftest import rows, write_base

from sst_merge.cli.main import cli

PAGE = Path(__file__).parents[1] / "docs" / "cookbook.md"
_BLOCKS = re.compile(r"^```bash\n(?P<lines>.*?)^```\n(?:\n```text\n(?P<told>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
# Another processor rounds otherwise, so figures, sizes and the width of a table's columns may differ.
_VARYING = re.compile(r"[0-9a-f]{40}|\d+(?:[.,]\d+)+(?:e-?\d+)?|[ ─━]+|\d+(?= s\b)")
_ANYTHING = "…"
"""Stands for whatever was left out of the page."""


def prepared(hub: Any, build: Any, folder: Path) -> None:
    """What the page says lies here and on the hub."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = write_base(folder / "models/base")
    targets = build.ARCHITECTURES["llama"].linears
    for seed, (name, rank) in enumerate({"code": 4, "maths": 2, "safety": 8, "tuned": 4}.items()):
        place = folder / "adapters" / name if name != "tuned" else folder / "tuned-adapter"
        build.adapter_folder(
            build.tiny_model("llama"), place, seed=seed, targets=targets, r=rank, task_type="CAUSAL_LM"
        )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "tuned-adapter")
    model.merge_and_unload().save_pretrained(folder / "models/tuned")
    hub.add("org/base", base)
    for name in ("code", "safety"):
        hub.add(f"user/{name}", folder / "adapters" / name)
        hub.repos["models", f"user/{name}"].refs["v1"] = hub.repos["models", f"user/{name}"].refs["main"]
    for name, seed in (("harmful", 1), ("ordinary", 2)):
        lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows(6, seed=seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    chats = [
        {"conversations": [{"from": "human", "value": row.prompt}, {"from": "gpt", "value": row.response}]}
        for row in rows(3, seed=3)
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)) + "\n")


def printed(lines: str) -> str:
    """What a block prints; fails where a command ends otherwise than the page says."""
    shown = ""
    for line in lines.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        status = re.search(r"# ends with (\d)$", line)
        assert words[0] == "sst-merge", line
        done = CliRunner().invoke(cli, words[1:])
        assert done.exit_code == (int(status[1]) if status else 0), f"{line}\n{done.output}"
        shown += done.output
    # Without bars of libraries.
    kept = [line for line in shown.splitlines() if "it/s]" not in line]
    return "".join(f"{line.rstrip()}\n" for line in kept)


def says(told: str, shown: str) -> bool:
    """Whether the page tells what was printed."""
    parts = [re.escape(_VARYING.sub("#", part)) for part in told.split(_ANYTHING)]
    return re.fullmatch(".*".join(parts), _VARYING.sub("#", shown), re.DOTALL) is not None


def runs_here(lines: str) -> bool:
    """Whether the packages of a block are installed; the gate has them, others may not."""
    return find_spec("gguf") is not None or not re.search(r"--to (gguf|ollama)", lines)


def test_every_block_can_run_here() -> None:
    blocks = list(_BLOCKS.finditer(PAGE.read_text(encoding="utf-8")))
    left = [block["lines"].splitlines()[0] for block in blocks if not runs_here(block["lines"])]
    if left:
        pytest.skip(f"gguf is not installed (extra gguf), so these blocks are not run: {'; '.join(left)}")


def test_every_command_prints_what_the_page_says(
    hub: Any, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SST_MERGE_COOKBOOK=write what is not true any more is written into the page, to be looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    prepared(hub, build, tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(_BLOCKS.finditer(text))
    assert len(blocks) > 8
    wrong = {}
    for block in blocks:
        if runs_here(block["lines"]) and not says(block["told"] or "", shown := printed(block["lines"])):
            wrong[block[0]] = f"```bash\n{block['lines']}```\n\n```text\n{shown}```\n"
    if os.environ.get("SST_MERGE_COOKBOOK") == "write":
        for old, new in wrong.items():
            text = text.replace(old, new)
        PAGE.write_text(text, encoding="utf-8")
    else:
        assert not wrong, "\n".join(wrong.values())
