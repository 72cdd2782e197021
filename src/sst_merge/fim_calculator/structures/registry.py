"""Where Fisher structures are found: every file of this folder, and whatever else uses the decorator."""

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TypeVar, get_args

from ...errors import FisherError
from ...texts import did_you_mean
from .base import Form, LayerFisher
from .sums import RunningSums

__all__ = ["available_structures", "find_structure", "fisher_structure"]

AnyFisher = TypeVar("AnyFisher", bound=type[LayerFisher])

_FOUND: dict[str, type[LayerFisher]] = {}


def fisher_structure(*, sums: type[RunningSums]) -> Callable[[AnyFisher], AnyFisher]:
    """Make an operator known under its ``structure``, so that options, files and solvers accept it.

    Args:
        sums: what gathers the structure's statistics while samples stream by.

    Returns:
        A decorator of the operator's class.

    Raises:
        FisherError: another class has that name already, or the form is not one that solvers know.
    """

    def register(operator: AnyFisher) -> AnyFisher:
        name, origin = operator.structure, f"{operator.__module__}.{operator.__qualname__}"
        if operator.form not in get_args(Form):
            raise FisherError(f"{origin}: form {operator.form!r}, expected one of {', '.join(get_args(Form))}")
        other = _FOUND.get(name)
        if other is not None and f"{other.__module__}.{other.__qualname__}" != origin:
            raise FisherError(
                f"Fisher structure {name!r} is declared by {other.__module__}.{other.__qualname__} and by {origin}; "
                "give one of them another name"
            )
        operator.sums = sums
        _FOUND[name] = operator
        return operator

    return register


@cache
def _import_own_files() -> None:
    package = __name__.rpartition(".")[0]
    for info in pkgutil.iter_modules(import_module(package).__path__, prefix=f"{package}."):
        import_module(info.name)


def available_structures() -> Mapping[str, type[LayerFisher]]:
    """Every structure by name, in alphabetical order."""
    _import_own_files()
    return {name: _FOUND[name] for name in sorted(_FOUND)}


def find_structure(name: str) -> type[LayerFisher]:
    """The class of the structure of that name.

    Raises:
        FisherError: there is none.
    """
    known = available_structures()
    if name not in known:
        raise FisherError(f"unknown Fisher structure {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return known[name]
