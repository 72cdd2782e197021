"""Lowest versions: stated in pyproject.toml alone, and compared with what is installed."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

from sst_merge.cli import env
from sst_merge.cli.main import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
STATED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
OURS = {(found := Requirement(text)).name: found for text in STATED}


@pytest.fixture(autouse=True)
def stated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The metadata of this checkout, whenever it was installed, with an extra that must not count."""
    monkeypatch.setattr(metadata, "requires", lambda name: [*STATED, 'scipy>=99; extra == "dev"'])
    for function in (env.lowest_versions, env.too_old):
        function.cache_clear()
    yield
    for function in (env.lowest_versions, env.too_old):
        function.cache_clear()


def test_every_requirement_has_a_lowest_version_that_is_read() -> None:
    assert {name: f">={low}" for name, low in env.lowest_versions().items()} == {
        name: str(requirement.specifier) for name, requirement in OURS.items()
    }


@pytest.mark.parametrize(
    ("version", "lowest"),
    [
        ("2.13.0+cpu", "2.4"),
        ("5.0.0", "5.0"),
        ("4.57.3", "5.0"),
        ("0.9", "0.10"),
        ("1", "1.0.0"),
        ("5.0.1.dev0", "5.0"),
    ],
)
def test_versions_compare_as_packaging_says(version: str, lowest: str) -> None:
    assert (env._numbers(version) < env._numbers(lowest)) == (Version(version) < Version(lowest))


def test_what_the_suite_runs_on_is_new_enough() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9_-]+)==([^ \n]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert all(OURS[name].specifier.contains(pinned[name]) for name in OURS if name in pinned)
    assert env.too_old() == ()


def test_no_other_page_states_a_lowest_version() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if re.search(rf"\b({'|'.join(OURS)}) ?(>=|≥) ?\d", page.read_text("utf-8"))] == []


def test_an_old_package_is_said_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    version, missing = metadata.version, metadata.PackageNotFoundError

    def installed(name: str) -> str:
        if name == "peft":
            raise missing(name)
        return {"transformers": "4.57.3"}.get(name) or version(name)

    monkeypatch.setattr(metadata, "version", installed)
    said = CliRunner().invoke(cli, ["methods", "ties"])
    assert said.exit_code == 0
    low = OURS["transformers"].specifier
    assert "transformers 4.57.3 is installed, sst-merge needs 5.0 or newer" in said.stderr
    assert f"pip install 'transformers{low}'" in said.stderr
    assert "peft is not installed" in said.stderr
    shown = CliRunner().invoke(cli, ["env", "--json"])
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)
    assert found["packages"]["transformers"] == {"installed": "4.57.3", "lowest": "5.0"}
    assert found["packages"]["peft"]["installed"] is None
    assert len(found["problems"]) == 2


def test_the_table_says_build_and_devices() -> None:
    shown = CliRunner().invoke(cli, ["env"])
    assert shown.exit_code == 0
    assert re.search(r"torch build\W+(CPU|CUDA \d)", shown.stdout)
    assert re.search(r"transformers\W+\d", shown.stdout)
