"""The studies: every script starts on the package as it is, every folder has its page, and figures can be read."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sst_merge.experiments.cells import Cell, CellStore
from sst_merge.experiments.plan import Planned

STUDIES = Path(__file__).parents[1] / "studies"
SCRIPTS = sorted(path for path in STUDIES.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))
# The first three write what the package ships, the other two are parts of merging/measure.py.
WITHOUT_PAGE = {"build_drift_set", "build_selections", "train_offline_judge", "merging_children", "merging_inputs"}


def named(path: Path) -> str:
    return str(path.relative_to(STUDIES))


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_every_script_answers_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.delenv("SST_MERGE_DATA", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert script.stem in WITHOUT_PAGE or "--out OUT" in text


def test_a_page_of_the_tax_is_written_from_figures_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --add and nothing missing no model answers anything: the same table as on the page."""
    page = STUDIES / "lab_one_skill"
    shutil.copyfile(page / "figures.json", tmp_path / "figures.json")
    words = ["--methods", "RegMean", "SST-Merge", "--n-dev", "64", "--n-test", "128", "--add"]
    words += ["--seeds", *map(str, range(5))]
    script = STUDIES / "lab_tax" / "measure.py"
    monkeypatch.setattr(sys, "argv", [script.name, *words, "--out", str(tmp_path)])
    monkeypatch.setattr("sst_merge.worlds.lab.lab_world.LabWorld.make", lambda *_: pytest.fail("something is trained"))
    runpy.run_path(str(script), run_name="__main__")
    rows = [
        re.search(r"^\| RegMean \| 5 of 5 .*$", (folder / "README.md").read_text("utf-8"), re.M)
        for folder in (page, tmp_path)
    ]
    found = [row[0].split(" | ") for row in rows if row is not None]
    # Task Arithmetic, which the last columns compare with, is not among these methods.
    assert len(found) == 2 and found[0][:7] == found[1][:7]


def test_what_is_kept_at_equal_safety_is_that_of_the_best_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strengths at 0.8 and 0.95 refused keep 0.9 and 0.8; two thirds of the way between them 0.9 are refused."""
    script = STUDIES / "lab_teachers" / "measure.py"
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    kept_at = runpy.run_path(str(script), run_name="lab_teachers")["_kept_at"]
    refused, kept = np.array([[0.8, 0.8], [0.95, 0.95], [1.0, 0.85]]), np.array([[0.9, 0.9], [0.8, 0.8], [0.5, 0.99]])
    assert kept_at(refused, kept, 0.9) == pytest.approx([0.9 - 0.1 * 2 / 3, 0.99 - 0.19 / 2])
    assert kept_at(refused[1:2], kept[1:2], 0.9) == pytest.approx([0.8, 0.8])
    assert np.isnan(kept_at(refused[:1], kept[:1], 0.9)).all()


def test_every_folder_has_a_page() -> None:
    folders = {path for path in STUDIES.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    without = [named(folder) for folder in sorted(folders) if not (folder / "README.md").is_file()]
    assert len(folders) > 10 and without == []


@pytest.mark.parametrize("page", sorted(STUDIES.rglob("README.md")), ids=named)
def test_every_page_begins_with_a_heading(page: Path) -> None:
    assert page.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("file", sorted(STUDIES.rglob("*.json")), ids=named)
def test_figures_are_json_without_nan(file: Path) -> None:
    def refuse(name: str) -> None:
        pytest.fail(f"{file}: holds {name}, which JSON does not know")

    assert json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True),
        ({"code": "new", "version": "9"}, True),
        ({"artefacts": {"safety": "missing"}}, True),
        ({"artefacts": {"safety": "other"}}, False),
        ({"options": {"strength": 2.0}}, False),
        ({"world": "other"}, False),
    ],
)
def test_packed_cells_of_other_code_stand_in_only_where_all_else_is_equal(
    tmp_path: Path, changed: dict[str, Any], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    study = runpy.run_path(str(STUDIES / "packed_cells.py"))
    depends = {"code": "old", "version": "1", "world": "w", "artefacts": {"safety": "abc"}, "options": {}}
    store = CellStore(tmp_path / "there")
    store.save(
        Cell("sweep", "kept", {"n": 1}, depends), {"right": "10"}, seconds=1.0, run={"commit": "c", "finished": "1"}
    )
    study["pack"](tmp_path, store)
    here = CellStore(tmp_path / "here")
    assert study["unpack"](tmp_path, here) == 1
    wanted = Cell("sweep", "wanted", {"n": 1}, depends | changed)
    found = study["keep_older"](here, [Planned(wanted, "tax", "group", "label", 0)])
    assert here.has(wanted) == taken
    assert found == ({"c": 1} if taken and changed else {})


def test_results_are_those_of_the_pages() -> None:
    study = runpy.run_path(str(STUDIES / "results.py"))
    page = (STUDIES.parent / "docs/results.md").read_text(encoding="utf-8")
    assert page == study["page"](), "python studies/results.py --out docs/results.md"


def test_results_join_the_tables_of_a_page_by_their_rows(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    text = """# Some

2 experts: first

| Method | Retention | Safe on dev | Other |
| --- | ---: | --- | --- |
| one | 0.5 | 1 of 3 | x |
| two | 0.6 | 2 of 3 | x |

4 experts: second

| Method | Other | Retention | Safe on dev |
| --- | --- | ---: | --- |
| base | x | 0.9 | 3 of 3 |
| two | x | 0.8 | 1 of 2 |
| one | x | 0.7 | 0 of 2 |
"""
    (tmp_path / "some/README.md").write_text(text, encoding="utf-8")
    study = runpy.run_path(str(STUDIES / "results.py"))

    def joined(*captions: str, column: str = "Retention") -> list[str]:
        tables = tuple((caption, (column, "Safe on dev")) for caption in captions)
        table: str = study["_joined"](tmp_path, study["Section"]("Heading", "Text.", "some", tables))
        return table.splitlines()

    assert joined("2 experts:", "4 experts:")[2:] == ["| one | 0.5 | 0.7 | 1 of 5 |", "| two | 0.6 | 0.8 | 3 of 5 |"]
    with pytest.raises(ValueError, match="no column 'Loss'"):
        joined("2 experts:", column="Loss")
    with pytest.raises(ValueError, match="begins with '8 experts:'"):
        joined("8 experts:")


@pytest.mark.parametrize(("n", "low", "high"), [(5, 1, 5), (7, 1, 7), (10, 2, 9), (15, 4, 12), (20, 6, 15)])
def test_interval_of_the_median_has_the_ranks_of_the_tables(n: int, low: int, high: int) -> None:
    # Ranks of the 95 % interval of a median as tables of the sign test give them; below six values there is none.
    study = runpy.run_path(str(STUDIES / "study.py"))
    assert study["interval"]([float(rank) for rank in range(n, 0, -1)])[1:] == (low, high)


def test_a_page_is_written_with_its_figures(tmp_path: Path) -> None:
    study = runpy.run_path(str(STUDIES / "study.py"))
    study["write_page"](tmp_path / "new", "# Title\n\ntext\n\n", {"κ": [1.5]})
    assert (tmp_path / "new/README.md").read_text(encoding="utf-8") == "# Title\n\ntext\n"
    assert json.loads((tmp_path / "new/figures.json").read_text(encoding="utf-8")) == {"κ": [1.5]}
    with pytest.raises(ValueError, match="begins with a heading"):
        study["write_page"](tmp_path / "other", "text", {})
    assert not (tmp_path / "other").exists()
