"""What a release is made of says one thing: versions of Python, the version's number, what a report must hold.

That the wheel works alone is tried by ``make wheel-test``, the Dockerfile by ``make lint``.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import sst_merge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def yaml_of(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_one_range_of_pythons_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == f">={PYTHONS[0]}"
    listed = [line.rpartition(" ")[2] for line in project["project"]["classifiers"] if "Python :: 3." in line]
    assert listed == PYTHONS
    # Both refuse what the lowest one cannot parse.
    assert project["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    assert project["tool"]["mypy"]["python_version"] == PYTHONS[0]
    assert yaml_of(".github/workflows/gate.yml")["jobs"]["wheel"]["strategy"]["matrix"]["python"] == PYTHONS


def test_the_citation_names_this_version() -> None:
    cited = yaml_of("CITATION.cff")
    assert cited["version"] == sst_merge.__version__
    assert cited["license"] == "Apache-2.0"


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.match(r"\[\d+\.\d+\.\d+\] - ", head) for head in heads[1:])


def test_the_workflow_runs_the_gate_and_publishes_only_what_passed() -> None:
    flow = yaml_of(".github/workflows/gate.yml")
    assert flow["permissions"] == {"contents": "read"}
    jobs = flow["jobs"]
    assert {"run": "bash .ci/run"} in jobs["gate"]["steps"]
    publish = jobs["publish"]
    assert set(publish["needs"]) == {"gate", "wheel"}
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    # Trusted publishing: a token of the run, an environment to approve it, and no secret.
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert any(step.get("uses", "").startswith("pypa/gh-action-pypi-publish@") for step in publish["steps"])
    assert "secrets." not in (ROOT / ".github/workflows/gate.yml").read_text(encoding="utf-8")


def test_what_the_workflow_calls_is_there() -> None:
    steps = [step for job in yaml_of(".github/workflows/gate.yml")["jobs"].values() for step in job["steps"]]
    words = " ".join(step.get("run", "") for step in steps).split()
    called = {word for word in words if word.startswith(".ci/") or word.endswith(".txt")}
    assert {".ci/run", ".ci/wheel.py", "constraints.txt"} <= called
    assert all((ROOT / name).is_file() for name in called)


@pytest.mark.parametrize("name", ["bug", "adapter"])
def test_a_report_holds_what_is_installed(name: str) -> None:
    form = yaml_of(f".github/ISSUE_TEMPLATE/{name}.yml")
    (asked,) = [part for part in form["body"] if part.get("id") == "env"]
    assert "`sst-merge env`" in asked["attributes"]["label"]
    assert asked["validations"]["required"] is True


def test_the_image_copies_what_the_context_lets_through() -> None:
    """No daemon builds it here: what the build stage copies must exist, and not be ignored."""
    copied = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()[:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)
    (extras,) = re.findall(r"\{wheel\}\[([a-z,]+)\]", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
