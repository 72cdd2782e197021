"""A folder onto the hub: everything in one commit, private unless said otherwise.

What would be sent is known before anything is, and a repository that others can see gets nothing by accident.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConversionError
from ..lora_utils import hub_id

__all__ = ["Upload", "check_repository", "planned_upload", "upload"]

_UNWANTED = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".log", ".lock", ".tmp")
_PLACEHOLDER = "PATH_TO_THIS_FOLDER"  # what a card calls the folder that it lies in
_CARD = "README.md"


@dataclass(frozen=True)
class Upload:
    """What goes where.

    Attributes:
        repository: ``user/name``.
        files: (name in the repository, file on this machine), in the order in which they are listed.
        left_out: names of files that stay here: hidden ones, links that lead out of the folder, pickles, logs.
        public: whether a new repository can be seen by everybody.
    """

    repository: str
    files: tuple[tuple[str, Path], ...]
    left_out: tuple[str, ...]
    public: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for _, file in self.files)


def check_repository(name: str) -> None:
    """Refuse what is no name of a repository of the hub.

    Raises:
        ConversionError: not ``user/name``.
    """
    if hub_id(name) is None or name.count("/") != 1:
        raise ConversionError(f"--push {name!r}: expected a repository of the hub, as user/name")


def planned_upload(repository: str, folder: Path, *, public: bool = False) -> Upload:
    """Look at what there is; nothing is sent.

    Args:
        repository: ``user/name``.
        folder: whose files are sent.
        public: let everybody see it.

    Raises:
        ConversionError: no name of a repository, or nothing to send.
    """
    check_repository(repository)
    files: list[tuple[str, Path]] = []
    left_out = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        # A link may lead to anything on this machine.
        leads_out = not file.resolve().is_relative_to(folder.resolve())
        if hidden or leads_out or file.suffix in _UNWANTED:
            left_out.append(name)
        else:
            files.append((name, file))
    if not files:
        raise ConversionError(f"--push {repository}: {folder} holds nothing to send")
    return Upload(repository, tuple(files), tuple(left_out), public)


def upload(plan: Upload, *, message: str) -> str:
    """Create the repository where it is missing, and send all files as one commit.

    Args:
        plan: what to send.
        message: of the commit.

    Returns:
        Address of the commit.

    Raises:
        ConversionError: no token, no right to write, a public repository without ``public``, or the hub cannot be
            reached. What was there before stays.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    where = f"--push {plan.repository}"
    if get_token() is None:
        raise ConversionError(
            f"{where}: nothing was sent, for no token is set here; log in (hf auth login), or set HF_TOKEN to a token "
            f"with the right to write there"
        )
    api = HfApi()
    # The hub's client raises its own errors, those of its HTTP library, and OSError.
    try:
        try:
            there: Any = api.repo_info(plan.repository, repo_type="model")
        except RepositoryNotFoundError:
            there = None
        if there is not None and not there.private and not plan.public:
            raise ConversionError(
                f"{where}: the repository is there and everybody can see it; nothing was sent. Say --public if that is "
                f"meant, or choose another name"
            )
        if there is None:
            api.create_repo(plan.repository, private=not plan.public, repo_type="model", exist_ok=False)
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=_content(name, file, plan.repository))
            for name, file in plan.files
        ]
        done = api.create_commit(plan.repository, operations, commit_message=message, repo_type="model")
    except ConversionError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise ConversionError(
            f"{where}: nothing was sent ({first}); expected a token with the right to write there (hf auth login, or "
            f"HF_TOKEN) and a hub that can be reached"
        ) from error
    return str(done.commit_url)


def _content(name: str, file: Path, repository: str) -> str | bytes:
    """A file's path; of the card its text, with the repository's name for the folder's."""
    if name != _CARD:
        return str(file)
    text = file.read_text(encoding="utf-8")
    return text.replace(_PLACEHOLDER, repository).encode("utf-8")
