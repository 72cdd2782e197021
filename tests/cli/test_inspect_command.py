"""``sst-merge inspect``: what it prints, writes and refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.inspection_tables import inspection_maps
from sst_merge.cli.main import cli
from sst_merge.inspection import inspect_adapters
from sst_merge.lora_utils import Adapter

SHAPES = {f"model.layers.{i}.{name}": (14, 11) for i in range(3) for name in ("q_proj", "v_proj")} | {
    "lm_head": (20, 14)
}


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters on disk; read only."""
    root = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("code", "safety", "maths")):
        shapes = {module: shape for module, shape in SHAPES.items() if name != "maths" or module != "lm_head"}
        adapter = build.random_adapter(shapes, name=name, rank=2 + seed, seed=seed)
        factors = {module: adapter.factors(module) for module in adapter.modules}
        Adapter.from_factors(factors, name=name, base_model="org/base").save(root / name / "final")
    return root


def call(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["inspect", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def test_tables_show_the_measured_figures(place: Path) -> None:
    folders = [place / name / "final" for name in ("code", "safety")]
    done = call(*folders)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"Next: sst-merge merge --skill \S+ --skill \S+ -o out/merged --dry-run\n", done.stderr)
    found = inspect_adapters([Adapter.load(f, name=f.parent.name) for f in folders])
    total = found.pairs[0].total
    for text in (
        "code – safety",
        "org/base",
        "q_proj × 3",
        "float64",
        "plain",
        f"{found.adapters[0].norm:.4g}",
        f"{found.weighted_sum.norm:.4g}",
        f"{total.cosine:.3f}",
        f"{100 * total.left.overlap:.1f} %",
        f"{100 * total.signs.share:.1f} %",
        f"{100 * total.conflict:.1f} %",
        "layers.1.q_proj",
        *found.meaning,
    ):
        assert text in done.stdout, text
    ranks = next(line for line in done.stdout.splitlines() if line.strip().startswith("99 %")).split()
    assert ranks[4] == str(found.weighted_sum.recommended_rank)


def test_json_is_the_inspection_itself(place: Path, tmp_path: Path) -> None:
    arguments = [f"name=c,path={place / 'code' / 'final'},weight=0.5,role=safety", place / "safety" / "final"]
    done = call(*arguments, "--json", "--json-file", tmp_path / "i.json", "--negligible", 0.2)
    assert done.exit_code == 0, done.output
    adapters = [
        Adapter.load(place / "code" / "final", name="c", weight=0.5, role="safety"),
        Adapter.load(place / "safety" / "final", name="safety"),
    ]
    shown = json.loads(done.stdout)
    assert shown == json.loads(json.dumps(inspect_adapters(adapters, negligible=0.2).to_dict()))
    assert shown["adapters"][0]["role"] == "safety"
    assert shown == json.loads((tmp_path / "i.json").read_text())
    assert done.stderr == f"{tmp_path / 'i.json'}\n"


def test_heat_maps_are_written(place: Path, tmp_path: Path) -> None:
    folders = [place / name / "final" for name in ("code", "safety", "maths")]
    done = call(*folders, "--heatmap", tmp_path / "map.png", "--no-signs")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2:] == [str(tmp_path / "map.png"), str(tmp_path / "map.svg")]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "map.png exists already; choose another --heatmap, or replace it with --force" in refused(
        *folders, "--heatmap", tmp_path / "map"
    )
    assert call(*folders, "--heatmap", tmp_path / "map", "--force").exit_code == 0


def test_maps_hold_the_figures_of_pairs_and_layers(build: Any) -> None:
    adapters = [build.random_adapter(SHAPES, name=name, seed=seed) for seed, name in enumerate("abc")]
    found = inspect_adapters(adapters)
    cosines, shared, opposite = inspection_maps(found)
    assert cosines.values == found.cosines()
    assert shared.rows == opposite.rows == ["a – b", "a – c", "b – c"]
    assert shared.columns == ["lm_head", "0", "1", "2"]
    for row, pair in enumerate(found.pairs):
        layers = pair.by_layer()
        for column, layer in enumerate(["lm_head", *(f"model.layers.{i}" for i in range(3))]):
            assert shared.values[row][column] == layers[layer].overlap
            assert opposite.values[row][column] == layers[layer].conflict
    assert max(map(max, shared.values)) <= shared.limits[1] <= 1.0
    assert len(inspection_maps(inspect_adapters(adapters, signs=False))) == 2
    assert len(inspection_maps(inspect_adapters(adapters[:1]))) == 1


def test_many_pairs_are_cut_to_what_a_screen_holds(build: Any) -> None:
    adapters = [build.random_adapter({"m.0.q": (9, 8)}, name=f"a{i}", seed=i) for i in range(9)]
    found = inspect_adapters(adapters, signs=False)
    shown = inspection_maps(found)[1]
    assert len(shown.rows) == 30
    assert shown.title.endswith("(30 of 36 pairs)")
    left_out = sorted(pair.total.overlap for pair in found.pairs)[:6]
    assert max(left_out) <= min(row[0] for row in shown.values)


def test_one_adapter(place: Path) -> None:
    done = call(place / "code" / "final")
    assert done.exit_code == 0, done.output
    assert "Pairs" not in done.stdout
    assert "The exact sum needs rank 2." in done.stdout


def test_different_bases_are_a_warning(build: Any, place: Path, tmp_path: Path) -> None:
    other = build.random_adapter(SHAPES, name="o", seed=9)
    factors = {module: other.factors(module) for module in other.modules}
    Adapter.from_factors(factors, name="o", base_model="org/other").save(tmp_path / "o")
    done = call(place / "code" / "final", tmp_path / "o", "--json")
    assert done.exit_code == 0
    assert "Warning: different bases: adapter 'final' has base 'org/base', adapter 'o' has" in done.stderr
    assert json.loads(done.stdout)["warnings"]


def test_refusals(build: Any, place: Path, tmp_path: Path) -> None:
    code = place / "code" / "final"
    assert "no such folder" in refused(code, tmp_path / "gone")
    build.random_adapter({"lm_head": (20, 13)}, name="o").save(tmp_path / "o")
    assert "module 'lm_head' is (20, 14)" in refused(code, tmp_path / "o")
    assert "two adapters are called 'final'" in refused(code, code)
    assert "Missing argument" in refused()
    assert "'data' is unknown; expected a folder, or name, path, role, weight" in refused(f"path={code},data=x")
    assert "there is no path" in refused("name=x")
    assert "weight is 'much', expected a number" in refused(f"path={code},weight=much")
    assert "role is 'x'" in refused(f"path={code},role=x")
    assert "negligible = -1.0" in refused(code, "--negligible", -1)
    assert "make it first" in refused(code, "--json-file", tmp_path / "no" / "i.json")
    (tmp_path / "i.json").write_text("kept")
    assert "i.json exists already; choose another --json-file" in refused(code, "--json-file", tmp_path / "i.json")
    assert (tmp_path / "i.json").read_text() == "kept"


def test_the_example_in_the_docs_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word; numbers may differ in their last digit from one machine to another."""
    monkeypatch.delenv("COLUMNS", raising=False)  # tests in several processes have it, and narrow tables are turned
    root = Path(__file__).parents[2]
    page = (root / "docs" / "inspecting.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    adapters = root / "src/sst_merge/worlds/lab/artefacts/seed0/adapters/unaligned"
    shown = call(adapters / "swap_pairs" / "seed0", adapters / "safety" / "seed0").stdout
    expected, found = ([word.strip("(),.") for word in re.sub("─+", "", text).split()] for text in (example, shown))
    assert len(expected) == len(found) > 200
    for one, other in zip(expected, found, strict=True):
        if re.fullmatch(r"-?\d+(\.\d+)?", one):
            last_digit = 10.0 ** -len(one.partition(".")[2])
            assert float(other) == pytest.approx(float(one), abs=1.01 * last_digit)
        else:
            assert one == other
