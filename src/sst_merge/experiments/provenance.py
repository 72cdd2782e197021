"""What results come from: digests of code and artefacts, versions, the machine."""

import ast
import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._version import __version__

__all__ = ["code_digest", "commit", "file_digest", "machine", "method_rooms", "versions"]

_PACKAGE = Path(__file__).resolve().parents[1]
_COMMON = (
    "core_space", "lora_utils", "data_loader", "fim_calculator", "gevp_solver", "merging", "worlds", "methods",
    "experiments/updates_by_knob.py", "experiments/work.py", "experiments/interference_work.py", "experiments/cost.py",
)  # fmt: skip
_VERSIONED = ("torch", "numpy", "scipy", "transformers", "peft", "safetensors")


@cache
def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits of a file's SHA-256, read once per process.

    Args:
        path: the file.

    Returns:
        The digits, or ``missing``.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "missing"


@cache
def code_digest(*rooms: str) -> str:
    """Sixteen hexadecimal digits of what code does: comments, docstrings, layout and methods' sweeps do not count.

    Args:
        rooms: files and folders below the package, beside those that every measurement goes through.

    Returns:
        The digits.
    """
    files = set[Path]()
    for room in (*_COMMON, *rooms):
        place = _PACKAGE / room
        files.update(place.rglob("*.py") if place.is_dir() else [place])
    files = {path for path in files if path.name != "sweeps.py"}
    return hashlib.sha256("".join(_file_code(path) for path in sorted(files)).encode()).hexdigest()[:16]


@cache
def _file_code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.Call):
            # The strengths of a sweep are parameters of its cells: a new sweep leaves the finished ones alone.
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "sweeps"]
    relative = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else path
    return f"{relative}\n{ast.dump(tree)}\n"


def method_rooms(method: str) -> tuple[str, ...]:
    """Where the code of a method lies, for :func:`code_digest`.

    Args:
        method: registered name.

    Returns:
        Files and folders; an absolute path for a method of another package.
    """
    from ..methods import get_method

    module = get_method(method).merge_layer.__module__
    parts = module.split(".")
    if module.startswith("sst_merge.sst"):
        return ("sst", *method_rooms("regmean"))  # whose rows `inputs: wide` adds
    if module.startswith("sst_merge.baselines"):
        return (f"baselines/{parts[-1]}.py",)
    spec = find_spec(module)
    return () if spec is None or spec.origin is None else (spec.origin,)


@cache
def versions() -> dict[str, str]:
    """Versions that decide figures.

    Returns:
        Package → version.
    """
    found = {"sst-merge": __version__, "python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def commit() -> str:
    """The commit of the source tree, marked where files differ from it.

    Returns:
        The hash, or ``unknown`` outside a checkout.
    """

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() not in _PACKAGE.parents:
            return "unknown"
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "--", str(_PACKAGE)) else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def machine() -> dict[str, Any]:
    """The machine, in words.

    Returns:
        Processor, cores and system.
    """
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {"processor": name, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
