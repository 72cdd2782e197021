"""What folders are called where their own names do not tell them apart: as much of their parents as it takes."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["named_apart", "short_names"]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of every path, as many as tell different paths apart, without an end that all have in common.

    Example:
        >>> from pathlib import Path
        >>> short_names([Path("runs/code/seed0"), Path("runs/safety/seed0")])
        ['code', 'safety']
        >>> short_names([Path("a/x"), Path("b/y")])
        ['x', 'y']
    """
    parts = [path.parts for path in paths]
    if len(set(paths)) == 1:
        return [path.name for path in paths]
    while len({part[-1:] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    count = 1
    while len({part[-count:] for part in parts}) < len(set(paths)):
        count += 1
    return ["/".join(part[-count:]) for part in parts]


def named_apart(given: Sequence[str | None], own: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Names of folders: those given, else their own; those that would share theirs are named by their parents.

    Args:
        given: a name, or nothing.
        own: what each is called without a name.
        paths: of the folders.

    Returns:
        One name for each; equal ones where a folder comes twice, or somebody gave one's own name to another.
    """
    names = [name or plain for name, plain in zip(given, own, strict=True)]
    alike = [place for place, name in enumerate(names) if not given[place] and names.count(name) > 1]
    others = {name for place, name in enumerate(names) if place not in alike}
    for label in dict.fromkeys(names[place] for place in alike):
        group = [place for place in alike if own[place] == label]
        if len(group) == 1:
            continue  # somebody gave its name to another one
        for place, short in zip(group, short_names([paths[place] for place in group]), strict=True):
            names[place] = short if short not in others else f"{short}/{label}"
    return names
