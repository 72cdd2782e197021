"""Where extensions are found: the files of a room of this package, and entry points of every installed package."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Protocol, TypeVar

from .errors import ConfigError

__all__ = ["discover"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Kind = TypeVar("Kind", bound=_Named)


def discover(kind: type[Kind], *, room: ModuleType, group: str) -> dict[str, Kind]:
    """Everything of one kind that is declared in a room or named by an entry point.

    A declaration is an object of that kind at the top level of a file, alone or in a tuple. Files whose name begins
    with an underscore hold none.

    Args:
        kind: class of the declarations.
        room: package of this library; each of its files is looked through.
        group: of entry points; the value of each is a module, a declaration, or a tuple of declarations.

    Returns:
        Name → declaration: those of the room by file name, then those of entry points by their value, each file's in
        the order in which it declares them.

    Raises:
        ConfigError: two declarations share a name, or an entry point cannot be loaded or holds no declaration.
    """
    found: dict[str, tuple[Kind, str]] = {}

    def add(holder: object, origin: str) -> None:
        for item in _held(holder, kind):
            other, where = found.setdefault(item.name, (item, origin))
            # The same object again is one file's import from another.
            if other is not item:
                raise ConfigError(
                    f"{item.name!r} is declared twice, by {where} and by {origin}; rename one of them, or uninstall "
                    "the package that it comes from"
                )

    for info in sorted(pkgutil.iter_modules(room.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            name = f"{room.__name__}.{info.name}"
            add(import_module(name), name)
    for point in sorted(set(entry_points(group=group)), key=lambda point: (point.value, point.name)):
        origin = f"entry point {point.name!r} = {point.value!r} (group {group})"
        try:
            holder = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{origin} cannot be loaded: {error}; mend or uninstall that package") from error
        if not any(_held(holder, kind)):
            raise ConfigError(
                f"{origin} is a {type(holder).__name__} without any {kind.__name__}; expected a module with "
                f"declarations, or one {kind.__name__}; mend or uninstall that package"
            )
        add(holder, origin)
    return {name: item for name, (item, _) in found.items()}


def _held(holder: object, kind: type[Kind]) -> Iterator[Kind]:
    values = list(vars(holder).values()) if isinstance(holder, ModuleType) else [holder]
    for value in values:
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, kind):
                yield item
