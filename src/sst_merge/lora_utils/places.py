"""Where an adapter lies: a folder here, in the hub's cache, or a repository of the hub; and which of several it is.

A path that exists always wins, and a name that reads like a path is never asked of the hub.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..data_loader.hub import HubOrigin, HubRepo, cached_snapshot, look_up, origin_of
from ..data_loader.own_tokenizer import tokenizer_files
from ..errors import AdapterError
from ..hub_names import HubName, is_here, near_name
from .folders import CONFIG_NAME, PICKLE_NAME, WEIGHTS_NAME, no_weights
from .weights_file import TensorHeaders

__all__ = ["AdapterPlace", "adapter_place"]

_MOST_NAMES = 5
_DEEPEST = 2  # levels of folders below the one that was named


@dataclass(frozen=True)
class AdapterPlace:
    """A folder that holds an adapter, or would where there is none.

    Attributes:
        folder: with adapter_config.json.
        origin: repository and commit that it was fetched from; None for a folder of the user.
        notes: what was chosen for the user, as sentences.
        tensors: tensor name → type and shape, where the weights stayed on the hub; None where they are in the folder.
    """

    folder: Path
    origin: HubOrigin | None = None
    notes: tuple[str, ...] = ()
    tensors: TensorHeaders | None = None


def adapter_place(
    reference: str | Path, *, weights: bool = True, looked_at: Path | None = None, allow_pickle: bool = False
) -> AdapterPlace:
    """The folder of an adapter, fetched where it is a repository of the hub.

    A folder without an adapter of its own stands for the one below it, if there is just one.

    Args:
        reference: folder, ``user/name``, ``user/name@revision`` or ``user/name/folder``. Only a ``str`` is asked of the
            hub, and only where there is nothing of that name here.
        weights: fetch them too; else their header alone is read, unless they are in the cache already.
        looked_at: where a folder of that name was looked for before, for the message.
        allow_pickle: fetch a pickle where there is nothing else.

    Raises:
        AdapterError: neither a folder here nor a repository with one adapter in it.
    """
    path = Path(reference)
    if is_here(path):
        return _here(path)
    name = HubName.parse(reference) if isinstance(reference, str) else None
    if name is None:
        return AdapterPlace(path)

    def refusal(said: str) -> AdapterError:
        where = f"{'here' if looked_at is None else f'({looked_at.absolute()})'}{near_name(looked_at or path)}"
        return AdapterError(f"{reference}: no such folder {where}, and on the hub: {said}")

    return _on_hub(look_up(name, refusal), weights=weights, allow_pickle=allow_pickle)


def _here(path: Path) -> AdapterPlace:
    folder = cached_snapshot(path) or path
    if (folder / CONFIG_NAME).is_file() or not folder.is_dir():
        return AdapterPlace(folder, origin_of(folder))
    levels = ["/".join(["*"] * level) for level in range(1, _DEEPEST + 1)]
    files = [file for level in levels for file in folder.glob(f"{level}/{CONFIG_NAME}")]
    found = _in_order(file.parent.relative_to(folder).as_posix() for file in files)
    if not found:
        return AdapterPlace(folder, origin_of(folder))
    chosen = _only({name: str(folder / name) for name in found}, str(folder))
    below = folder / chosen
    return AdapterPlace(below, origin_of(below), (_taken(str(path), chosen),))


def _on_hub(repo: HubRepo, *, weights: bool, allow_pickle: bool) -> AdapterPlace:
    asked = repo.name.subfolder
    start = f"{asked}/" if asked else ""
    below = [file.rpartition("/") for file in repo.inside(asked)]
    found = _in_order(parent for parent, _, file in below if file == CONFIG_NAME and parent.count("/") < _DEEPEST)
    if not found:
        what = f"the folder {asked!r} of {repo.name.repo}" if asked else repo.name.repo
        held = ", ".join(sorted({file.partition("/")[0] for file in repo.inside(asked)}))
        raise repo.refusal(f"{what} at commit {repo.commit} has no {CONFIG_NAME}; it holds {held[:300] or 'nothing'}")
    named = {name: str(replace(repo.name, subfolder=f"{start}{name}")) for name in found}
    chosen = "" if "" in found else _only(named, str(repo.name))
    notes = (_taken(str(repo.name), chosen),) if chosen else ()
    folder = f"{start}{chosen}".rstrip("/")
    start = f"{folder}/" if folder else ""
    files = repo.inside(folder)
    pickled = allow_pickle and WEIGHTS_NAME not in files and PICKLE_NAME in files
    if WEIGHTS_NAME not in files and repo.reached and not pickled:
        raise AdapterError(no_weights(f"{replace(repo.name, subfolder=folder)} at commit {repo.commit}", files))
    wanted = [f"{start}{file}" for file in (CONFIG_NAME, *tokenizer_files(files))]
    file = f"{start}{PICKLE_NAME if pickled else WEIGHTS_NAME}"
    here = weights or pickled or repo.is_cached(file)
    snapshot = repo.fetch([*wanted, file] if here else wanted)
    tensors = None if here else repo.header(file)
    return AdapterPlace(snapshot / folder, repo.origin(snapshot, folder), notes, tensors)


def _only(found: Mapping[str, str], where: str) -> str:
    """The only folder of some, each with how a user names it.

    Raises:
        AdapterError: there are several.
    """
    *others, last = found
    if not others:
        return last
    shown = ", ".join([*others, last][:_MOST_NAMES]) + (", ..." if len(found) > _MOST_NAMES else "")
    raise AdapterError(
        f"{where}: no {CONFIG_NAME}, but {len(found)} adapters below it: {shown}; give one of these folders, such as "
        f"{found[last]}"
    )


def _taken(where: str, chosen: str) -> str:
    return f"{where} holds no adapter of its own; the only one below it, {chosen}, is taken"


def _in_order(names: Iterable[str]) -> list[str]:
    """Folders, the upper ones first, in natural order."""

    def key(name: str) -> tuple[int, list[tuple[int, str]]]:
        return name.count("/"), [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]

    return sorted(set(names), key=key)
