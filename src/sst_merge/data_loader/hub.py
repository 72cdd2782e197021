"""The one place where a name of the Hugging Face hub becomes files: looked up, fetched, or found in the cache.

Everything is done by ``huggingface_hub``: its token, its cache, its endpoint, its offline mode, its progress bars (on a
terminal alone) and its resuming of a connection that was lost. Only its errors are told again, with what was tried.
"""

import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from ..hub_names import HubName, is_here
from .hub_refusals import ErrorOf, Kind, refuse, said_no

__all__ = ["HubOrigin", "HubRepo", "Kind", "cached_snapshot", "fetched_before", "look_up", "origin_of", "short_name"]

_SNAPSHOTS = "snapshots"
_CACHE_FOLDER = "models--"


@dataclass(frozen=True)
class HubOrigin:
    """From where a folder was fetched.

    Attributes:
        repo: ``user/name``.
        revision: branch, tag or commit that was asked for; None for the newest state.
        commit: that it was at the time.
        subfolder: inside of the repository; empty for the repository itself.
    """

    repo: str
    revision: str | None
    commit: str
    subfolder: str = ""

    @property
    def name(self) -> str:
        """Repository and folder, as a user writes it, without the revision."""
        return f"{self.repo}/{self.subfolder}" if self.subfolder else self.repo

    def to_dict(self) -> dict[str, str | None]:
        """As a report records it."""
        inside = {"subfolder": self.subfolder} if self.subfolder else {}
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit, **inside}


@dataclass(frozen=True)
class HubRepo:
    """A repository whose files are known and not fetched.

    Attributes:
        name: what was asked for.
        kind: of repository.
        commit: of the revision.
        files: names of all its files; where the hub was not reached, of those that were fetched before.
        reached: whether the hub itself said so; False where the cache did.
        refusal: makes the caller's error out of a sentence.
    """

    name: HubName
    kind: Kind
    commit: str
    files: tuple[str, ...]
    reached: bool
    refusal: ErrorOf

    def inside(self, folder: str) -> list[str]:
        """Names of the files below a folder of the repository, without that folder's own."""
        start = f"{folder}/" if folder else ""
        return [file[len(start) :] for file in self.files if file.startswith(start)]

    def fetch(self, files: Collection[str]) -> Path:
        """Fetch some files, or find them in the cache.

        Args:
            files: names in the repository.

        Returns:
            Folder of the snapshot, with the commit as its name.

        Raises:
            SSTMergeError: the caller's own, with the reason.
        """
        from huggingface_hub import snapshot_download

        try:
            # By the revision that was asked for, not its commit, so that the cache can answer for it when offline.
            found = snapshot_download(
                self.name.repo,
                repo_type=self.kind,
                revision=self.name.revision,
                allow_patterns=[glob.escape(file) for file in sorted(files)],
                tqdm_class=_bars_on_terminals(),
            )
        # Errors of the network are those of a client that differs between versions of huggingface_hub.
        except Exception as error:
            missing = [file for file in sorted(files) if not self.is_cached(file)]
            refuse(error, self.name, self.kind, self.refusal, *missing[:1])
        for file in sorted(files):
            if not (Path(found) / file).is_file():
                raise self.refusal(f"{file} of {self.name} at commit {Path(found).name} is not in the cache; try again")
        return Path(found)

    def header(self, file: str) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Types and shapes of the tensors of a safetensors file, read from its first bytes on the hub.

        Args:
            file: name in the repository.

        Returns:
            Tensor name → type as safetensors calls it, and shape.

        Raises:
            SSTMergeError: the caller's own, with the reason.
        """
        from huggingface_hub import HfApi

        try:
            read = HfApi().parse_safetensors_file_metadata(self.name.repo, file, revision=self.commit)
        except Exception as error:
            refuse(error, self.name, self.kind, self.refusal, file)
        return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in read.tensors.items()}

    def check_readable(self) -> None:
        """Refuse a repository whose list of files is public and whose files are not.

        Raises:
            SSTMergeError: the caller's own, with the reason.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if not self.reached or not self.files:
            return
        try:
            get_hf_file_metadata(hf_hub_url(self.name.repo, self.files[0], repo_type=self.kind, revision=self.commit))
        except Exception as error:
            if said_no(error):
                refuse(error, self.name, self.kind, self.refusal)

    def is_cached(self, file: str) -> bool:
        """Whether a file of this commit was fetched before."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.name.repo, file, revision=self.commit, repo_type=self.kind)
        return isinstance(found, str)

    def origin(self, snapshot: Path, subfolder: str) -> HubOrigin:
        """Where a fetched folder comes from."""
        return HubOrigin(self.name.repo, self.name.revision, snapshot.name, subfolder)


@overload
def look_up(name: HubName, refusal: ErrorOf, *, kind: Kind = ..., needed: Literal[True] = ...) -> HubRepo: ...
@overload
def look_up(name: HubName, refusal: ErrorOf, *, kind: Kind = ..., needed: bool) -> HubRepo | None: ...
def look_up(name: HubName, refusal: ErrorOf, *, kind: Kind = "model", needed: bool = True) -> HubRepo | None:
    """Ask the hub for a repository: its commit and the names of its files. Nothing is fetched.

    Where the hub cannot be reached, or is not to be (``HF_HUB_OFFLINE``), the cache answers.

    Args:
        name: what is asked for.
        refusal: makes the error that the caller documents out of a sentence about what the hub said.
        kind: of repository.
        needed: refuse where neither hub nor cache tells; None is returned there otherwise.

    Raises:
        SSTMergeError: ``refusal``'s, where there is none, it may not be read, or neither hub nor cache has it.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(name.repo, revision=name.revision, repo_type=kind)
    except Exception as error:
        if said_no(error):
            refuse(error, name, kind, refusal)
        snapshot = fetched_before(name, kind)
        if snapshot is None and not needed:
            return None
        if snapshot is None:
            refuse(error, name, kind, refusal)
        files = tuple(sorted(str(file.relative_to(snapshot).as_posix()) for file in _files_below(snapshot)))
        return HubRepo(name, kind, snapshot.name, files, reached=False, refusal=refusal)
    files = tuple(file.rfilename for file in getattr(info, "siblings", None) or ())
    return HubRepo(name, kind, str(info.sha), files, reached=True, refusal=refusal)


def cached_snapshot(folder: Path) -> Path | None:
    """The newest state inside of a repository's own folder in the cache (``models--user--name``).

    Args:
        folder: any folder.

    Returns:
        The snapshot of the branch ``main``, or the only one; None where it is no such folder or has several.
    """
    snapshots = folder / _SNAPSHOTS
    if not folder.name.startswith((_CACHE_FOLDER, "datasets--")) or not snapshots.is_dir():
        return None
    main = folder / "refs" / "main"
    if main.is_file() and (found := snapshots / main.read_text(encoding="utf-8").strip()).is_dir():
        return found
    there = [item for item in snapshots.iterdir() if item.is_dir()]
    return there[0] if len(there) == 1 else None


def origin_of(folder: Path) -> HubOrigin | None:
    """From where a folder inside of a cache was fetched, as the cache's layout says it; None for any other folder.

    Args:
        folder: such as ``.../models--user--name/snapshots/COMMIT/checkpoint-10``.
    """
    parts = folder.absolute().parts
    for place in range(len(parts) - 2, 0, -1):
        if parts[place] == _SNAPSHOTS and parts[place - 1].startswith(_CACHE_FOLDER):
            repo = parts[place - 1].removeprefix(_CACHE_FOLDER).replace("--", "/")
            return HubOrigin(repo, None, parts[place + 1], "/".join(parts[place + 2 :]))
    return None


def short_name(reference: str | Path) -> str:
    """How messages and reports call what a user names, where it has no name of its own.

    Args:
        reference: a folder, or a name of the hub where there is no such folder.
    """
    path = Path(reference)
    if not is_here(path):
        name = HubName.parse(str(reference))
        return path.resolve().name if name is None else name.label
    origin = origin_of(cached_snapshot(path) or path)
    return path.resolve().name if origin is None else origin.name.rpartition("/")[2]


def fetched_before(name: HubName, kind: Kind = "model") -> Path | None:
    """The snapshot of a revision in the cache, whole or in part; nothing is asked of the hub.

    Args:
        name: repository and revision.
        kind: of repository.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name.repo, repo_type=kind)
    asked = name.revision or constants.DEFAULT_REVISION
    reference = folder / "refs" / asked
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else asked
    found = folder / _SNAPSHOTS / commit
    return found if found.is_dir() else None


def _files_below(snapshot: Path) -> list[Path]:
    return [file for file in snapshot.rglob("*") if file.is_file()]


def _bars_on_terminals() -> type[Any]:
    """The library's progress bar, which without this is also written into files and pipes."""
    from huggingface_hub.utils.tqdm import tqdm

    class OnTerminals(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": kwargs.get("disable") or None})  # type: ignore[no-untyped-call]

    return OnTerminals
