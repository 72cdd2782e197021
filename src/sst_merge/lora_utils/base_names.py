"""Which name of its base an output carries: one that means something to whoever opens it."""

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["exists_here", "hub_id", "written_base"]

_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
# As the hub's client lays a download out: models--ORGANISATION--NAME/snapshots/COMMIT.
_SNAPSHOT = re.compile(r"(?:^|.*[/\\])models--([A-Za-z0-9_.-]+?)(?:--([A-Za-z0-9_.-]+?))?[/\\]snapshots[/\\].*")


def hub_id(name: str | None) -> str | None:
    """A base's name where it reads like an id of the hub, else None."""
    return name if name is not None and _HUB_ID.fullmatch(name) and not name.endswith((".", "-", ".git")) else None


def exists_here(name: str) -> bool:
    """Whether a name is the folder of a model on this machine."""
    try:
        return (Path(name) / "config.json").is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def written_base(named: Iterable[str | None], given: str | None) -> tuple[str | None, list[str]]:
    """The base that an output names, and what the user should know about it.

    Args:
        named: what the adapters say.
        given: what the user says.

    Returns:
        The first name of an adapter that exists here or reads like a hub id; else what the user gives; else the hub id
        that a dead path into the hub's cache stands for; else None, which every loader takes. With a sentence wherever
        it is none of the adapters' names.
    """
    names = list(dict.fromkeys(name for name in named if name is not None))
    for name in names:
        if exists_here(name) or hub_id(name) is not None:
            return name, []
    if given is not None:
        dead = f"the adapters name {names[0]!r}, which is not on this machine; " if names else ""
        return given, [f"{dead}the output names the base {given!r}"] if dead else []
    for name in names:
        if match := _SNAPSHOT.fullmatch(name):
            found = "/".join(part for part in match.groups() if part)
            return found, [
                f"base {name!r} is not on this machine; the output names {found!r}, from which it was loaded"
            ]
    if not names:
        return None, []
    return None, [
        f"base {names[0]!r} is not on this machine and no id of the hub, so the output names no base; give its name "
        f"with base_model (--base-model)"
    ]
