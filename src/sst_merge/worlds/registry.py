"""Where worlds are found: entry points of the group ``sst_merge.worlds``, this package's own lab among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from ..errors import ConfigError
from ..texts import did_you_mean
from ..yaml_config import Section, validated
from .world import World

__all__ = ["ENTRY_POINT_GROUP", "WorldKind", "available_worlds", "open_world", "world_kind"]

ENTRY_POINT_GROUP = "sst_merge.worlds"


@dataclass(frozen=True)
class WorldKind:
    """A registered world: how to open it.

    Attributes:
        name: as written in a configuration.
        summary: one sentence for pages, with its full stop.
        options: model of its options; a configuration's section ``world`` gives them beside the name.
        open: options → world; nothing is trained yet.
    """

    name: str
    summary: str
    options: type[Section]
    open: Callable[[Any], World]


def world_kind(*, name: str, summary: str, options: type[Section]) -> Callable[[Callable[[Any], World]], WorldKind]:
    """Declare a function that opens a world; the decorated name becomes the :class:`WorldKind`.

    Args:
        name: as written in a configuration.
        summary: one sentence for pages, with its full stop.
        options: model of its options.

    Returns:
        A decorator.
    """
    return lambda function: WorldKind(name, summary, options, function)


@cache
def available_worlds() -> Mapping[str, WorldKind]:
    """Every installed world by name.

    Returns:
        Name → how to open it.

    Raises:
        ConfigError: two worlds share a name, or an entry point is no :class:`WorldKind`.
    """
    found: dict[str, WorldKind] = {}
    for point in sorted(set(entry_points(group=ENTRY_POINT_GROUP)), key=lambda point: point.value):
        kind = point.load()
        if not isinstance(kind, WorldKind):
            raise ConfigError(
                f"entry point {point.name} = {point.value} of {ENTRY_POINT_GROUP} is a {type(kind).__name__}; expected "
                "a function declared with @world_kind"
            )
        if kind.name in found:
            raise ConfigError(f"two installed packages have a world {kind.name!r}; uninstall one, or rename its world")
        found[kind.name] = kind
    return found


def open_world(name: str, **options: Any) -> World:
    """Open a world.

    Args:
        name: of the world.
        **options: its own.

    Returns:
        The world; bases and adapters are trained when they are first asked for.

    Raises:
        ConfigError: there is no such world, or its options are wrong.
    """
    worlds = available_worlds()
    if name not in worlds:
        raise ConfigError(
            f"no world {name!r}{did_you_mean(name, worlds)}; installed are "
            f"{', '.join(worlds) or 'none'} (entry points {ENTRY_POINT_GROUP}; a "
            "package that has changed them must be installed again)"
        )
    kind = worlds[name]
    return kind.open(validated(kind.options, options, source=f"world {name}"))
