"""``sst-merge env``: what is installed, and whether it is new enough.

The lowest versions stand in one place, pyproject.toml, from where they get into the installed package's metadata.
"""

import platform
import re
from functools import cache
from importlib import metadata

import click

from .._version import __version__
from .console import finish, print_table

__all__ = ["env", "lowest_versions", "too_old"]

_PACKAGE = "sst-merge"
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[.*\])?\s*>=\s*(?P<lowest>[0-9][0-9.]*)[^;]*(?P<only>;.*)?")


@click.command(help="What is installed: versions with the lowest that work, torch's build, devices. For bug reports.")
@click.pass_context
def env(ctx: click.Context) -> None:
    """Print versions and devices; exit code 1 where a package is missing or too old."""
    import torch

    found = {name: _installed(name) for name in lowest_versions()}
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts = {
        "sst-merge": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "torch build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "devices": ", ".join(["cpu", *cards]),
    }
    problems = too_old()
    print_table("environment", ["what", "found"], [[name, value] for name, value in facts.items()])
    rows = [[name, found[name] or "missing", low] for name, low in lowest_versions().items()]
    print_table("packages", ["package", "installed", "lowest"], rows)
    packages = {name: {"installed": found[name], "lowest": low} for name, low in lowest_versions().items()}
    finish({**facts, "packages": packages, "problems": list(problems)}, then="sst-merge demo")
    ctx.exit(1 if problems else 0)


@cache
def lowest_versions() -> dict[str, str]:
    """What the package requires, without its extras: name → lowest version; empty where it is not installed."""
    try:
        stated = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    matches = (_BOUND.fullmatch(requirement) for requirement in stated)
    return {match["name"]: match["lowest"] for match in matches if match is not None and match["only"] is None}


@cache
def too_old() -> tuple[str, ...]:
    """Sentences about required packages that are missing or older than what works."""
    problems = []
    for name, lowest in lowest_versions().items():
        version = _installed(name)
        if version is None or _numbers(version) < _numbers(lowest):
            found = f"{name} is not installed" if version is None else f"{name} {version} is installed"
            problems.append(
                f"{found}, sst-merge needs {lowest} or newer and may fail without: pip install '{name}>={lowest}'"
            )
    return tuple(problems)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, for a comparison: 2.13.0+cpu is (2, 13), and a preview counts as its release."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match is not None else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
