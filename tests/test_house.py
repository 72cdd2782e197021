"""The structure of the package: one direction, no circle, no exception; names and pages that the docs promise."""

import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

grimp = pytest.importorskip("grimp", reason="import-linter needs Python 3.11")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph() -> Any:
    return grimp.build_graph("sst_merge")


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def layers() -> list[set[str]]:
    (contract,) = (c for c in settings()["contracts"] if c["type"] == "layers")
    return [{room.strip() for room in line.split("|")} for line in contract["layers"]]


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_contracts_have_no_exception() -> None:
    assert [c["name"] for c in settings()["contracts"] if c.get("ignore_imports")] == []


def test_no_import_climbs(graph: Any) -> None:
    height = {room: -number for number, line in enumerate(layers()) for room in line}
    inside = [module for module in graph.modules if module != "sst_merge"]
    climbs = [
        (module, target)
        for module in inside
        for target in graph.find_modules_directly_imported_by(module)
        if target != "sst_merge"
        and room_of(module) != room_of(target)
        and height[room_of(target)] >= height[room_of(module)]
    ]
    assert len(inside) > 200
    assert climbs == []


def test_no_circle_of_files(graph: Any) -> None:
    # A room's __init__ re-exports its own files, so only files with code of their own are asked.
    files = {module for module in graph.modules if not graph.find_children(module)}
    needs = {module: graph.find_modules_directly_imported_by(module) & files for module in files}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        pytest.fail(f"circle of files: {' -> '.join(error.args[1])}")
    assert set(order) == files


def test_every_room_says_its_idea_and_has_tests() -> None:
    rooms = sorted(path.parent for path in (ROOT / "src" / "sst_merge").glob("*/__init__.py"))
    for room in rooms:
        assert (room / "__init__.py").read_text(encoding="utf-8").startswith('"""'), room
    without = [room.name for room in rooms if not list((ROOT / "tests" / room.name).glob("test_*.py"))]
    assert without == []
