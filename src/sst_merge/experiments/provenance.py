"""What results come from: digests of code and artefacts, versions, the machine."""

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..errors import DataError
from ..files import file_sha256
from ..methods import available_methods, get_method

__all__ = ["code_digest", "commit", "folder_digest", "machine", "reached_modules", "versions"]

_PACKAGE = Path(__file__).resolve().parents[1]
_VERSIONED = ("numpy", "scipy", "transformers", "peft", "safetensors")


def folder_digest(folder: Path | None) -> str:
    """Sixteen hexadecimal digits of the weights in a folder.

    Args:
        folder: of a base or of an adapter; None where there is none yet.

    Returns:
        The digits, or ``missing``.
    """
    return "missing" if folder is None else _weights_digest(folder)


@cache
def _weights_digest(folder: Path) -> str:
    digests = [f"{path.name} {file_sha256(path)}" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def code_digest(*modules: str, method: str | None = None) -> str:
    """Sixteen hexadecimal digits of what code does: comments, docstrings, layout and methods' sweeps do not count.

    The code is everything in the modules' own packages that they reach by imports. Merge methods are left out, but for
    the one that is named, so that a change of a method does not touch what was measured with others.

    Args:
        modules: where the walk begins, such as that of a work function.
        method: registered name of the merge method.

    Returns:
        The digits.
    """
    return _digest(modules, method)


@cache
def _digest(modules: tuple[str, ...], method: str | None) -> str:
    reached = reached_modules(modules, leave_out=_method_rooms())
    if method is not None:
        reached |= reached_modules((get_method(method).merge_layer.__module__,))
    sources = {name: _source(name) for name in sorted(reached) if not name.endswith(".sweeps")}
    code = "".join(f"{name}\n{_code(path)}\n" for name, path in sources.items() if path is not None)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@cache
def _method_rooms() -> frozenset[str]:
    """Packages in which methods are declared; a method in a module without package is a room of its own."""
    modules = [method.merge_layer.__module__ for method in available_methods().values()]
    return frozenset(module.rpartition(".")[0] or module for module in modules)


def reached_modules(modules: Collection[str], *, leave_out: Collection[str] = ()) -> set[str]:
    """Modules that are imported, directly or not, from some modules, within these modules' own packages.

    Imports inside functions count, those for type checkers alone do not. Of a package that a module only lies in, what
    its ``__init__`` imports at once counts: a door with lazy imports would lead everywhere.

    Args:
        modules: where the walk begins.
        leave_out: packages that are not entered.

    Returns:
        Names of modules, the first ones among them.

    Raises:
        DataError: one of the first modules has no source file.
    """
    lost = [module for module in modules if _source(module) is None]
    if lost:
        raise DataError(f"module {lost[0]} has no source file, so nothing can be said of what its results depend on")
    packages = {module.split(".")[0] for module in modules}
    found: set[tuple[str, bool]] = set()
    todo = [(module, True) for module in modules]
    while todo:
        module, whole = todo.pop()
        known = module.split(".")[0] in packages and _source(module) is not None
        left_out = any(module == room or module.startswith(f"{room}.") for room in leave_out)
        if (module, whole) not in found and known and not left_out:
            found.add((module, whole))
            todo += [(name, True) for name in _imports(module, in_functions=whole)]
            todo += [(module.rpartition(".")[0], False)] if "." in module else []
    return {module for module, _ in found}


@cache
def _source(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if rest or path.name == "__init__.py":
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
    return path if path.is_file() else None


@cache
def _imports(module: str, *, in_functions: bool) -> tuple[str, ...]:
    """Names that a module imports; of ``from a import b`` it is ``a.b`` where that is a module, else ``a``."""
    path = _source(module)
    assert path is not None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            near = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            whole = ".".join(part for part in (near, node.module) if part)
            names = [f"{whole}.{alias.name}" for alias in node.names]
            modules = [name for name in names if _source(name) is not None]
            # A package that a module is taken from is not entered for it: a door with lazy imports leads everywhere.
            found += modules if len(modules) == len(names) else [whole, *modules]
        todo += ast.iter_child_nodes(node)
    return tuple(found)


@cache
def _code(path: Path) -> str:
    """What a file does, as a syntax tree without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.Call):
            # The strengths of a sweep are parameters of its cells: a new sweep leaves the finished ones alone.
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "sweeps"]
    return ast.dump(tree)


@cache
def versions() -> dict[str, str]:
    """Versions that decide figures.

    Returns:
        Package → version.
    """
    # torch with its build (+cu130), which the metadata of wheels leave out.
    found = {"sst-merge": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
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
