"""The documentation site: every public name has its place, and what its pages tell to type runs as it stands there.

The build itself is ``make docs``: strict about links, anchors, navigation and names.
"""

import contextlib
import glob
import io
import json
import re
import shlex
import shutil
import string
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from click.testing import CliRunner
from tests.test_cookbook import says

import sst_merge
from sst_merge.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Of seven kinds of layers one is left where data are read.
REST = ["q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# As few rows and prompts as can be wrong. The heat map, which takes longest, has its own tests.
SMALLER = {
    "ROWS = 64": "ROWS = 3",
    "--n 64": "--n 1",
    "--n 32": "--n 1",
    "batch_size: 64": "batch_size: 8",
    " --heatmap ten": "",
    "--workers 2": "--workers 1",
    "--samples 64": "--samples 1",
    "--samples 32": "--samples 1",
    "--method calibration_only": "--method calibration_only --set steps=1",
    "--data-batch-size 64": " ".join(f"--leave-out {name}" for name in REST),
}


def found_at(path: str) -> object:
    """What a dotted path names: a module, or something in one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


def test_every_public_name_is_on_the_page_of_the_package() -> None:
    text = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    shown = [found_at(path) for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    missing = [name for name in sst_merge.__all__ if not any(getattr(sst_merge, name) is found for found in shown)]
    assert missing == ["__version__"] and "`sst_merge.__version__`" in text
    assert len(shown) == len(sst_merge.__all__) - 1


def test_what_the_theme_loads_is_there() -> None:
    loaded = re.findall(r"^extra_css: \[([^]]*)\]", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(loaded) == 1 and all((DOCS / name.strip()).is_file() for name in loaded[0].split(","))


def test_every_extension_can_be_looked_up_room_by_room() -> None:
    text = (DOCS / "reference/rooms.md").read_text(encoding="utf-8")
    rooms = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    groups = {"methods": "method", "suites": "suite", "judges": "judge", "fim_calculator.structures": "structure"}
    assert {f"sst_merge.{room}" for room in groups} <= rooms
    for room, page in groups.items():
        used = re.findall(
            rf"from sst_merge\.{re.escape(room)} import (.*)", (DOCS / f"extending/{page}.md").read_text()
        )
        offered = getattr(found_at(f"sst_merge.{room}"), "__all__")  # noqa: B009
        assert used and all(name.strip() in offered for line in used for name in line.split(","))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of docs/_site by name."""
    monkeypatch.syspath_prepend(str(DOCS / "_site"))
    return import_module


def test_the_reference_is_made_from_parsers_and_registry(site: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("griffe", reason="the extra docs is not installed")
    from sst_merge.cli.flags import config_flags
    from sst_merge.merging.config import MergeConfig
    from sst_merge.methods import available_methods

    pages = site("reference").pages()
    commands, methods = pages["docs/reference/commands.md"], pages["docs/reference/methods.md"]
    assert {f"### sst-merge {name}" for name in cli.list_commands(None)} <= set(commands.splitlines())  # type: ignore[arg-type]
    assert "#### sst-merge fisher collect" in commands
    for flag in config_flags(MergeConfig):
        assert flag.option in commands, flag.option
    for name, method in available_methods().items():
        section = methods.partition(f"{{: #{name} }}")[2].partition("\n## ")[0]
        assert method.paper in section
        for option in method.options.model_fields:
            assert re.search(rf"^\| `{option}` \| \S", section, re.MULTILINE), f"{name}: {option} has no meaning"


def test_roles_of_docstrings_become_plain_code(site: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("griffe", reason="the extra docs is not installed")
    roles = site("roles")
    assert (
        roles.plain("see :func:`~sst_merge.merge`, :class:`.Adapter` and ``x``") == "see `merge`, `Adapter` and ``x``"
    )


def test_the_toy_of_the_concepts_solves_its_problem(site: Callable[[str], ModuleType]) -> None:
    pictures = site("pictures")
    found = pictures.toy()
    values, vectors = scipy.linalg.eigh(pictures.F_HARM, pictures.F_BENIGN)
    np.testing.assert_allclose(found["values"], values[::-1])
    share = values / (values + pictures.MU)
    np.testing.assert_allclose(found["kept"], vectors @ (share * (vectors.T @ pictures.F_BENIGN @ pictures.PATCH)))
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert f"it gains {found['harm_top_quotient']:.1f} per unit of cost" in text
    assert f"v1 gains {values[-1]:.1f}" in text


class Page:
    """Types what a page says: lines and files in ``bash``, and programs in ``python``."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self, page: str, *, languages: str = "bash|python") -> list[str]:
        """What every block printed, in order."""
        text = (DOCS / page).read_text(encoding="utf-8")
        for whole, part in SMALLER.items():
            text = text.replace(whole, part)
        blocks = re.findall(rf"^```({languages})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        return [getattr(self, language)(body) for language, body in blocks]

    def bash(self, body: str) -> str:
        lines = re.sub(r"^cat > (\S+) <<END\n(.*?)^END\n", self._write, body, flags=re.DOTALL | re.MULTILINE)
        return "".join(self._line(line) for line in lines.replace("\\\n", " ").splitlines())

    def python(self, body: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(body, self.names)
        return out.getvalue()

    def _write(self, file: re.Match[str]) -> str:
        Path(file[1]).write_text(string.Template(file[2]).substitute(self.variables), encoding="utf-8")
        return ""

    def _line(self, line: str) -> str:
        assigned = re.fullmatch(r"(\w+)=(?:\$\((.*)\))?(.*)", line)
        if assigned:
            name, command, rest = assigned.groups()
            printed = self._line(command).strip() if command else ""
            self.variables[name] = printed + string.Template(rest).substitute(self.variables)
            return ""
        words = [string.Template(word).substitute(self.variables) for word in shlex.split(line)]
        words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]  # noqa: PTH207
        assert words[0] == "sst-merge", line
        found = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
        assert found.exit_code == 0, f"{line}\n{found.output}"
        return found.stdout


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Page()


def test_the_quickstart_runs(page: Page) -> None:
    printed = page.run("quickstart.md")
    assert f"```text\n{printed[1]}```" in (DOCS / "quickstart.md").read_text(encoding="utf-8")
    files = [Path(folder, "adapter_model.safetensors").read_bytes() for folder in ("out/sum", "out/sum-from-python")]
    assert files[0] == files[1]


def test_the_tutorial_of_two_skills_runs(page: Page) -> None:
    page.run("tutorials/two_skills_and_safety.md")
    assert Path("out/sst/merge_report.html").is_file()


def test_the_tutorial_of_ten_adapters_runs(page: Page) -> None:
    printed = page.run("tutorials/ten_adapters.md")
    text = (DOCS / "tutorials/ten_adapters.md").read_text(encoding="utf-8")
    told = [
        " ".join(line.split())
        for line in re.findall(r"^ (?:\w+ – \w+|add|ends|safety|weighted sum)  .*$", text, re.MULTILINE)
    ]
    tables = [" ".join(line.split()) for line in printed[0].splitlines()]
    assert len(told) == 12
    for line in told:
        assert any(row.startswith(line) for row in tables), line


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Stands for the folder of the repository, as far as the examples of the lab need it; few prompts and layers."""
    folder = tmp_path / "examples" / "lab"
    shutil.copytree(ROOT / "examples" / "lab", folder, ignore=shutil.ignore_patterns("out"))
    (tmp_path / "src").symlink_to(ROOT / "src")
    for rows in (folder / "data").glob("*.jsonl"):
        rows.write_text("".join(rows.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    for config in folder.glob("*.yaml"):
        with config.open("a", encoding="utf-8") as file:
            file.write(f"leave_out: {REST}\n" if "\ndata:" in config.read_text(encoding="utf-8") else "")
    return folder


def test_the_tutorial_of_the_aligned_base_runs(page: Page, clone: Path) -> None:
    page.run("tutorials/aligned_base.md")
    options = json.loads(Path("out/aligned/merge_report.json").read_text(encoding="utf-8"))["options"]
    assert options["aligned_base"] is True


def test_the_tutorial_of_honest_evaluation_runs(page: Page, clone: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    shown = page.run("tutorials/evaluate_honestly.md")[-1]
    text = (DOCS / "tutorials/evaluate_honestly.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"^```text\n(refusal-rules.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert says(told, "".join(f"{line.rstrip()}\n" for line in shown.splitlines()))
    asked = {path.name for path in Path("out/evaluation/records").iterdir()}
    assert asked == {"base", "skill", "safety", "sum", "random", "control", "sst"}


def test_the_tutorial_of_scaling_out_runs(page: Page, clone: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    page.run("tutorials/scale_out.md")
    assert not Path("out/scale").exists() and Path("out/many/merge_report.html").is_file()


def test_the_comparison_measures_what_it_says(page: Page) -> None:
    (printed,) = page.run("comparison.md", languages="python")
    assert f"```text\n{printed}```" in (DOCS / "comparison.md").read_text(encoding="utf-8")
