"""What the hub said when it gave nothing, as one sentence with what to do."""

from collections.abc import Callable, Iterator
from typing import Literal, NoReturn

from ..errors import SSTMergeError
from ..hub_names import HubName

__all__ = ["ErrorOf", "Kind", "refuse", "said_no"]

Kind = Literal["model", "dataset"]
ErrorOf = Callable[[str], SSTMergeError]


def refuse(error: Exception, name: HubName, kind: Kind, refusal: ErrorOf, *missing: str) -> NoReturn:
    """Raise the caller's own error with what the hub said.

    Args:
        error: of the library that asked.
        name: what was asked for.
        kind: of repository.
        refusal: makes the error out of a sentence.
        missing: the file that was wanted; the repository itself otherwise.

    Raises:
        SSTMergeError: always; the one that ``refusal`` makes.
    """
    what = f"{missing[0]} of {name}" if missing else str(name)
    raise refusal(_reason(error, name, kind, what)) from error


def said_no(error: Exception) -> bool:
    """Whether the hub itself refused; False where it was not reached, or is out of order."""
    status = _status(error)
    return status is not None and status < 500 and status not in {408, 429}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and whatever it was raised from or during."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _reason(error: Exception, name: HubName, kind: Kind, what: str) -> str:
    """What the hub said, and what to do; ``what`` is missing where it said nothing."""
    from huggingface_hub import constants, errors, get_token

    set_part = "datasets/" if kind == "dataset" else ""
    page = f"{constants.ENDPOINT}/{set_part}{name.repo}"
    token = (
        ", and for a private one set HF_TOKEN"
        if get_token() is None
        else ", and whether the account whose token is set here may read it"
    )
    chain = list(_chain(error))
    if any(isinstance(item, errors.GatedRepoError) for item in chain):
        return (
            f"{name.repo} is gated: accept its licence at {page}, and set HF_TOKEN to a token of the account that did "
            f"(or log in with `hf auth login`)"
        )
    if any(isinstance(item, errors.RevisionNotFoundError) for item in chain):
        return f"{name.repo} has no revision {name.revision!r}; see {page}/commits, or leave the revision out"
    if any(isinstance(item, errors.RemoteEntryNotFoundError) for item in chain):
        return f"{name.repo} lacks a file that it listed ({_first_line(error)}); see {page}/tree/main"
    statuses = {_status(item) for item in chain}
    if any(isinstance(item, errors.RepositoryNotFoundError) for item in chain) or 404 in statuses:
        return f"there is no {kind} repository {name.repo}, or it is private; check the name{token}"
    if statuses & {401, 403}:
        return (
            f"{name.repo} may not be read ({_first_line(error)}): set HF_TOKEN to a token that may, or unset it where "
            f"it is old"
        )
    if constants.HF_HUB_OFFLINE:
        return (
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to fetch it; fetch it "
            f"once without HF_HUB_OFFLINE"
        )
    return (
        f"{constants.ENDPOINT} cannot be reached or gives no answer ({_first_line(error)}), and {what} is not in the "
        f"cache ({constants.HF_HUB_CACHE}); try again, or download it elsewhere and give its folder"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
