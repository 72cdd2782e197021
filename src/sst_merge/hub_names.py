"""How a repository of the Hugging Face hub is written: ``user/name``, with a revision and a folder inside of it.

Only text is looked at here, and whether a path is there. Which of the two wins is decided by whoever resolves a name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from .texts import did_you_mean

__all__ = ["HubName", "is_here", "near_name"]

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_REPO = re.compile(rf"(?!.*(?:--|\.\.)){_PART}/{_PART}")
_SINGLE = re.compile(rf"(?!.*(?:--|\.\.)){_PART}")
# Branches that the hub makes itself, the only ones with a slash that can be told from a folder.
_REVISION_FIRST = re.compile(r"(refs/(?:pr|convert)/[^/@]+|[^/@]+)(?:/(.*))?")
_REVISION = re.compile(r"[^\s@:?*\[\\^~]+")
_MOST_FOLDERS = 4  # a longer name is a path that does not exist
_BAD_ENDS = (".", "-", ".git", ".lock")


def is_here(place: str | Path) -> bool:
    """Whether there is such a path; a name that no file system takes is none."""
    try:
        return Path(place).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def near_name(place: Path) -> str:
    """What to put behind a path that is not there: what lies in the same folder and is called almost so, if anything.

    Returns:
        As :func:`~.texts.did_you_mean`; nothing where the folder is missing, too, or may not be looked into.
    """
    try:
        return did_you_mean(place.name, [beside.name for beside in place.absolute().parent.iterdir()])
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, and what of it.

    Attributes:
        repo: ``user/name``; ``name`` alone for the few old models without a user.
        revision: branch, tag or commit; None for the newest state.
        subfolder: folder inside, ``/`` between its parts; empty for the repository itself.
    """

    repo: str
    revision: str | None = None
    subfolder: str = ""

    @classmethod
    def parse(cls, text: str, *, single: bool = False) -> "HubName | None":
        """Read ``user/name``, ``user/name@revision``, ``user/name/folder``, and both together in either order.

        Args:
            text: as a user writes it.
            single: take a name without a user as well (``gpt2``).

        Returns:
            What it says; None where it reads like a path (absolute, ``./x``, ``../x``, ``~/x``, a backslash or an empty
            part, more than four folders) or like no name of the hub at all.
        """
        if not text or text[0] in "./~" or "\\" in text:
            return None
        before, at, behind = text.partition("@")
        segments = before.split("/")
        if single and len(segments) == 1:
            repo, folders = segments[0], []
        else:
            repo, folders = "/".join(segments[:2]), segments[2:]
        revision = None
        if at:
            found = None if folders else _REVISION_FIRST.fullmatch(behind)
            revision, inside = (found[1], found[2]) if found is not None else (behind, None)
            folders = folders if inside is None else inside.split("/")
        pattern = _SINGLE if single and "/" not in repo else _REPO
        if pattern.fullmatch(repo) is None or repo.endswith(_BAD_ENDS):
            return None
        if revision is not None and (_REVISION.fullmatch(revision) is None or revision.endswith("/")):
            return None
        if len(folders) > _MOST_FOLDERS or any(part in {"", ".", ".."} for part in folders):
            return None
        return cls(repo, revision, "/".join(folders))

    @property
    def label(self) -> str:
        """How messages and reports call what lies there: its last folder, or the repository without its user."""
        return (self.subfolder or self.repo).rpartition("/")[2]

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        inside = f"/{self.subfolder}" if self.subfolder else ""
        # A slash in a revision can be read back only behind the folder.
        return f"{self.repo}{inside}{at}" if "/" in at else f"{self.repo}{at}{inside}"
